//! The help of every command, and the scripts that complete them: rules C3 and C11 of `spec/cli.md`.
#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    unreachable_pub,
    reason = "tests stand outside of the rooms"
)]

mod common;

use std::collections::BTreeSet;
use std::io::Write as _;
use std::process::{Command, Stdio};

use common::PROGRAM;

/// What the program prints on stdout; it says nothing else.
fn prints(args: &[&str]) -> String {
    let output = Command::new(PROGRAM).args(args).env_clear().output().unwrap();
    assert_eq!((output.status.code(), output.stderr.len()), (Some(0), 0), "{args:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// The commands as the help lists them.
fn commands() -> Vec<String> {
    let text = prints(&["--help"]);
    let list = text.lines().skip_while(|line| *line != "Commands:").skip(1);
    let list = list.take_while(|line| !line.is_empty());
    list.map(|line| line.split_whitespace().next().unwrap().to_owned())
        .filter(|name| name != "help")
        .collect()
}

/// The long options of a command, without those that all have.
fn options(command: &str) -> BTreeSet<String> {
    let text = prints(&[command, "--help"]);
    let own = text.split("Common options:").next().unwrap().to_owned();
    let words = own.lines().filter(|line| line.starts_with("  ") && line.trim_start().starts_with('-'));
    words
        .filter_map(|line| line.split_whitespace().find(|word| word.starts_with("--")))
        .map(str::to_owned)
        .collect()
}

#[test]
fn c3_the_list_is_whole_and_in_the_order_of_use() {
    let known = "deploy status rollback check diff push activate confirm logs history list show restart stop start \
                 freeze thaw exec signal tag path gc verify export import init manager supervisor holder completions";
    assert_eq!(commands(), known.split_whitespace().collect::<Vec<_>>());
    let text = prints(&["--help"]);
    assert!((0..=8).all(|code| text.contains(&format!("\n  {code}  "))), "the exit codes: {text}");
    assert_eq!(text, prints(&["help"]));
}

#[test]
fn c3_every_command_has_examples_that_are_right() {
    let temp = tempfile::tempdir().unwrap();
    let nowhere = temp.path().join("nowhere");
    for command in commands() {
        let text = prints(&[&command, "--help"]);
        let (_, examples) =
            text.split_once("\nExamples:\n").unwrap_or_else(|| panic!("{command}: no example: {text}"));
        assert!((1..=3).contains(&examples.lines().count()), "{text}");
        for line in examples.lines() {
            assert!(line.starts_with("  ") && line.contains(&format!(" {command}")), "{command}: {line}");
            // the parser accepts it; what needs a shell is looked at by eye
            if command == "completions" || line.contains(['|', '$']) {
                continue;
            }
            let line = line.trim().strip_prefix("pointsman -s web ").unwrap_or_else(|| panic!("{line}"));
            if command == "init" {
                continue;
            }
            let script = format!("\"$0\" --store \"$1\" {line}");
            let output =
                Command::new("sh").args(["-c", &script, PROGRAM]).arg(&nowhere).env_clear().output().unwrap();
            let said = String::from_utf8(output.stderr).unwrap();
            assert!(said.starts_with("pointsman: ") && said.contains("nowhere"), "{line}: {said}");
        }
        // no option goes without a word, and no text is broken by hand
        assert!(
            !text
                .lines()
                .any(|line| line.trim_start().starts_with('-') && line.trim().split("  ").count() < 2),
            "{text}"
        );
        assert!(text.lines().all(|line| line.chars().count() <= 100), "{text}");
    }
}

#[test]
fn c11_the_script_of_each_shell_knows_every_command_and_option() {
    for shell in ["bash", "zsh", "fish"] {
        let script = prints(&["completions", shell]);
        for command in commands() {
            assert!(script.contains(&command), "{shell}: {command}");
            for option in options(&command) {
                assert!(script.contains(option.trim_start_matches("--")), "{shell}: {command} {option}");
            }
        }
        assert!(!["__ready", "__get", "stored"].iter().any(|name| script.contains(name)), "{shell}");
    }
    let output = Command::new(PROGRAM).args(["completions", "tcsh"]).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("bash, zsh, fish"), "{said}");
    let output = Command::new(PROGRAM).args(["--json", "completions", "bash"]).output().unwrap();
    assert_eq!(output.status.code(), Some(2), "a script is no object");
}

/// What bash offers after each of these lines of words.
fn offers(script: &str, lines: &[Vec<&str>]) -> Vec<BTreeSet<String>> {
    let mut asked = script.to_owned();
    for words in lines {
        let [.., before, last] = words.as_slice() else { panic!("two words at least") };
        let quoted: Vec<String> = words.iter().map(|word| format!("'{word}'")).collect();
        asked.push_str(&format!("\nCOMP_WORDS=({})\nCOMP_CWORD={}\n", quoted.join(" "), words.len() - 1));
        asked.push_str(&format!("_pointsman pointsman '{last}' '{before}'\necho \"${{COMPREPLY[@]}}\"\n"));
    }
    let said = bash(&[], &asked);
    let answers: Vec<_> = said.lines().map(|line| line.split(' ').map(str::to_owned).collect()).collect();
    assert_eq!(answers.len(), lines.len(), "{said}");
    answers
}

/// Has bash read `script`, and gives what it prints.
fn bash(args: &[&str], script: &str) -> String {
    let mut bash = Command::new("bash");
    bash.args(["--norc", "--noprofile"]).args(args).env_clear();
    let mut bash = bash.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut stdin = bash.stdin.take().unwrap();
    let script = script.to_owned();
    let writer = std::thread::spawn(move || stdin.write_all(script.as_bytes()));
    let output = bash.wait_with_output().unwrap();
    writer.join().unwrap().unwrap();
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn c11_bash_completes_commands_and_options() {
    let script = prints(&["completions", "bash"]);
    assert_eq!(bash(&["-n"], &script), "");
    let commands = commands();
    let mut lines = vec![
        vec!["pointsman", ""],
        vec!["pointsman", "-s", "web", "rollb"],
        vec!["pointsman", "completions", "f"],
    ];
    lines.extend(commands.iter().map(|command| vec!["pointsman", command, "--"]));
    let offers = offers(&script, &lines);
    assert!(commands.iter().all(|command| offers[0].contains(command)), "{:?}", offers[0]);
    assert_eq!(offers[1..3], [["rollback".to_owned()].into(), ["fish".to_owned()].into()]);
    for (command, offered) in commands.iter().zip(&offers[3..]) {
        assert!(options(command).is_subset(offered), "{command}: {offered:?}");
    }
}
