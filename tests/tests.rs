//! All integration tests in one program (one link, not ten); real programs, no stand-ins.

mod api;
mod api_tls;
mod bench;
mod clients;
mod cluster;
mod dcs;
mod docs;
mod etcd;
mod health;
mod lab;
mod methods;
mod mixed;
mod openapi;
mod outside;
mod packaging;
mod postgres;
mod postgres_tls;
mod replication;
mod rig;
mod supervisor;
mod tidy;
mod tutorials;
mod twins;
mod vm;
mod wrong_input;
mod yaml;
