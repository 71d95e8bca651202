//! Whether the binary understands a command line, by its own definition.

use clap::Command;
use perennial::cli;

use crate::to_come;

/// The subcommand that the first words name, and the words after it.
pub(crate) fn find_command<'a, 'b>(
    definition: &'a Command,
    words: &'b [&'b str],
) -> (&'a Command, &'b [&'b str]) {
    let (mut command, mut rest) = (definition, words);
    while let Some((word, behind)) = rest.split_first() {
        let Some(next) = command.find_subcommand(word) else {
            break;
        };
        (command, rest) = (next, behind);
    }
    (command, rest)
}

/// Whether a command has `--flag`.
pub(crate) fn has_flag(command: &Command, flag: &str) -> bool {
    command
        .get_arguments()
        .any(|argument| argument.get_long() == Some(flag))
}

/// Fails unless the binary takes these arguments, values included. What is to come is
/// left out of them.
pub(crate) fn assert_understood(arguments: &[String], place: &str) {
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let is_to_come = |path: &&&str| words.starts_with(&path.split(' ').collect::<Vec<_>>());
    if to_come::COMMANDS.iter().any(|path| is_to_come(&path)) {
        return;
    }
    let known = arguments.iter().filter(|argument| {
        let flag = argument
            .strip_prefix("--")
            .map(|flag| flag.split('=').next());
        !to_come::FLAGS
            .iter()
            .any(|(_, coming)| flag == Some(Some(coming)))
    });
    // Kubernetes fills these in.
    let filled = known.map(|argument| {
        argument
            .replace("$(POD_NAME)", "perennial-0")
            .replace("$(POD_NAMESPACE)", "shop")
    });
    let whole = std::iter::once("perennial".to_owned()).chain(filled);
    if let Err(error) = cli::definition().try_get_matches_from(whole) {
        panic!("{place}: the binary does not understand {arguments:?}: {error}");
    }
}

#[test]
fn the_check_refuses_what_the_binary_refuses() {
    for wrong in [
        "serve --lisen=0.0.0.0:7400",
        "serve --listen=7400",
        "sevre",
        "journal migrate --data-dir=/var/lib/perennial",
    ] {
        let arguments: Vec<String> = wrong.split(' ').map(str::to_owned).collect();
        let refused = std::panic::catch_unwind(|| assert_understood(&arguments, "here"));
        assert!(refused.is_err(), "{wrong}");
    }
}
