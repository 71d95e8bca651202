//! The commands in the runbook are commands of the binary.

use crate::command_line::assert_understood;
use crate::files::read;

/// Lines of the runbook's shell examples, continued ones put together, without the
/// comments at their ends.
fn lines() -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    let (mut inside, mut continued) = (false, false);
    for line in read("RUNBOOK.md").lines() {
        if line.starts_with("```") {
            inside = line == "```sh";
            continue;
        }
        if !inside {
            continue;
        }
        let text = line.split(" #").next().unwrap_or(line).trim();
        let (text, more) = text
            .strip_suffix('\\')
            .map_or((text, false), |text| (text, true));
        match lines.last_mut() {
            Some(last) if continued => last.push_str(text),
            _ => lines.push(text.to_owned()),
        }
        continued = more;
    }
    lines
}

#[test]
fn the_binary_understands_the_runbooks_commands() {
    let mut understood = 0;
    for line in lines() {
        // `pn` is defined in the runbook as the binary inside a pod.
        let Some(start) = line
            .find("pn ")
            .filter(|at| *at == 0 || line[..*at].ends_with(' '))
        else {
            continue;
        };
        let command = line[start + 3..].split(['|', ';', '>']).next().unwrap();
        // What the reader fills in is a number, or a word.
        let words: Vec<String> = command
            .split_whitespace()
            .map(|word| word.trim_matches('\'').to_owned())
            .map(|word| if word == "NODE" { "3".to_owned() } else { word })
            .collect();
        assert_understood(&words, &format!("RUNBOOK.md: {line}"));
        understood += 1;
    }
    assert!(
        understood >= 10,
        "{understood}: commands are not found any more"
    );
}
