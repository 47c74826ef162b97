# make setup          install what is missing, from the distribution
# make demo           a cluster of three on loopback, to play with, until Ctrl-C
# make demo-failover  the same, with faults and a verdict
# make test           lints, unit tests, parts, a .deb on servers, clusters, virtual machines: what
#                     CI runs
# make bench          write gaps and costs; SUT=patroni measures Patroni, RUNS=n repeats n times
# make lint, unit, parts, cluster [SCENARIO=name]     pieces of it
# make sim            ten thousand simulated clusters more than the thousand of make test
# make deb, rpm       packages of this commit, in target/packages
# make deb-check      a .deb of the program that is there: lintian, its files and scripts
# make package-check  that, and containers with systemd where it is installed, upgraded under load,
#                     stopped, removed, a server replaced; rpm-check: so an .rpm
# make deb-repro      the same commit, built in two places, must give the same .deb
# make mixed          clusters with real Patroni, HAProxy, Prometheus
# make test-vm-quick  virtual machines that are really reset
# make test-vm        everything that they can show, by two devices

.PHONY: demo demo-failover test lint unit parts sim cluster mixed bench build setup
.PHONY: test-vm test-vm-quick setup-vm setup-mixed
.PHONY: deb rpm deb-check package-check rpm-check deb-repro setup-package setup-rpm

demo: build
	@packaging/demo.sh

demo-failover: build
	@packaging/demo.sh failover

test: lint unit parts package-check cluster test-vm-quick

lint: setup
	cargo fmt --all --check
	cargo clippy --all-targets --locked -- -D warnings

unit: setup
	cargo test --locked --lib --bins

# Everything in tests/ but the scenarios on real clusters: those run one after the other, because
# their times are judged, and print what they saw. `proof`: the rules in words, the model, and a
# thousand simulated clusters.
parts: setup
	cargo test --locked --test tests -- --skip cluster:: --skip dcs:: --skip health:: \
		--skip mixed:: --skip twins:: --skip clients:: --skip tutorials:: --skip vm::
	cargo test --locked --test tests -- --test-threads=1 dcs::
	cargo test --locked -p pgvigil-core --test proof -- --nocapture --test-threads=1

# The tests play seeds 0 to 999; a seed costs about 0.1 s of a processor.
sim: setup
	cargo run --locked -- sim --seed 1000 --seeds 10000

cluster: setup
	cargo test --locked --test tests -- --nocapture --test-threads=1 cluster:: health::

# With real Patroni (from PyPI), HAProxy and Prometheus.
mixed: setup-mixed
	cargo test --locked --test tests -- --nocapture --test-threads=1 \
		mixed:: twins:: clients:: tutorials::

test-vm-quick: setup-vm
	cargo test --locked --test tests -- --nocapture --test-threads=1 vm::

test-vm: setup-vm setup-package
	cargo build --locked --example manual
	cargo test --locked --test tests -- --nocapture --test-threads=1 --ignored vm::

bench: setup
	cargo test --locked --release --test tests -- --nocapture --ignored bench::

build: setup
	cargo build --locked

deb: setup-package
	packaging/release.sh $@ target/packages

rpm: setup-rpm
	packaging/release.sh $@ target/packages

# Builds twice from nothing: half an hour.
deb-repro: setup-package
	packaging/repro.sh

deb-check: setup-package
	cargo build --locked --example manual
	cargo test --locked --test tests -- --nocapture --test-threads=1 --ignored \
		packaging::built::the_deb

package-check: deb-check
	cargo test --locked --test tests -- --nocapture --test-threads=1 --ignored packaging::server

rpm-check: setup-package setup-rpm
	cargo build --locked --example manual
	cargo test --locked --test tests -- --nocapture --test-threads=1 --ignored \
		packaging::built::the_rpm packaging::rpm

setup:
	@packaging/setup.sh

setup-package: setup
	@packaging/setup.sh package

setup-rpm: setup
	@packaging/setup.sh rpm

setup-mixed: setup
	@packaging/setup.sh mixed

setup-vm: setup
	@packaging/setup.sh vm
