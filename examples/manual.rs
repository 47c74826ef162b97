//! Writes man pages and completions of both programs: `cargo run --example manual -- DIRECTORY`.
//! For packaging/package.sh; an example, so that the program itself carries none of it.

use std::fs;
use std::io;
use std::path::Path;

use clap_complete::Shell;
use pgvigil::cli::program::commands;

fn main() -> io::Result<()> {
    let Some(directory) = std::env::args_os().nth(1) else {
        return Err(io::Error::other("usage: manual DIRECTORY"));
    };
    let directory = Path::new(&directory);
    for kind in ["man", "bash", "fish", "zsh"] {
        fs::create_dir_all(directory.join(kind))?;
    }
    for command in commands() {
        // `pgvigil help doctor` says what `man pgvigil-doctor` says.
        let mut command = command
            .disable_help_subcommand(true)
            .mut_subcommands(|command| command.disable_help_subcommand(true));
        let name = command.get_name().to_owned();
        for (shell, file) in [
            (Shell::Bash, format!("bash/{name}")),
            (Shell::Fish, format!("fish/{name}.fish")),
            (Shell::Zsh, format!("zsh/_{name}")),
        ] {
            let mut text = Vec::new();
            clap_complete::generate(shell, &mut command, &name, &mut text);
            fs::write(directory.join(file), text)?;
        }
        clap_mangen::generate_to(command, directory.join("man"))?;
    }
    Ok(())
}
