//! The command line as a person meets it: every refusal is one sentence on stderr, and the exit code says its kind.

use assert_cmd::Command;

/// Runs `ferry` with the words of `line`, and gives exit code, stdout and stderr.
fn ferry(line: &str) -> (i32, String, String) {
    let mut command = Command::cargo_bin("ferry").expect("cargo built the program for its tests");
    let output = command.args(line.split_whitespace()).env_remove("FERRY_AGENT").output();
    let output = output.expect("the program can be started");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("ferry writes UTF-8");
    (output.status.code().unwrap_or(-1), text(output.stdout), text(output.stderr))
}

/// One line, in the program's name, without colours (stderr is no terminal here).
fn assert_is_one_sentence(line: &str, stderr: &str) {
    assert!(stderr.starts_with("ferry: "), "{line}: {stderr}");
    assert_eq!(stderr.trim_end().lines().count(), 1, "{line}: {stderr}");
    assert!(!stderr.contains('\u{1b}'), "{line}: {stderr}");
    assert!(!stderr.contains("panicked"), "{line}: {stderr}");
}

#[test]
fn words_that_are_wrong_end_with_2_and_one_sentence() {
    let cases = [
        ("", "say what to do"),
        ("volume", "say what to do"),
        ("sail", "unrecognized subcommand 'sail'; see ferry --help"),
        ("machine lst", "(did you mean list?); see ferry machine --help"),
        (
            "machine create web sleep 1",
            "follows after --, as in -- sleep 1000; see ferry machine create --help",
        ),
        ("move web", "--to"),
        ("move web --to", "--to"),
        ("machine create web", "COMMAND"),
        ("machine create web --volume data=8GB -- sleep 1", "KiB, MiB, GiB or TiB"),
        ("machine create WEB -- sleep 1", "is not a name"),
        ("volume import disk", "--from"),
        ("volume grow disk", "<SIZE>"),
        ("volume grow disk 8GB", "KiB, MiB, GiB or TiB"),
        ("volume import disk --from /x --size 8GB", "KiB, MiB, GiB or TiB"),
        ("job show web", "is not an id"),
        ("demo --size 1GiB --used 2GiB", "larger --size"),
        ("demo --size 1000", "multiples of 4KiB"),
        ("machine list --agent nowhere", "is not the address of an agent"),
        ("agent", "--config"),
        ("volume-server", "--dir"),
    ];
    for (line, part) in cases {
        let (code, stdout, stderr) = ferry(line);
        assert_eq!(code, 2, "{line}: {stderr}");
        assert_is_one_sentence(line, &stderr);
        assert!(stderr.contains(part), "{line}: {stderr}");
        assert_eq!(stdout, "", "{line}");
    }
}

#[test]
fn an_agent_that_is_not_there_ends_with_3_and_one_sentence() {
    // A port that was free a moment ago and that nobody else is told.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let watch = "job watch 01JD2V6M5X8Y3Q4R5S6T7V8W9X";
    for line in [
        "machine list",
        "volume list --json",
        "job list",
        watch,
        "worker show",
        "worker safe-to-stop",
        "gc --dry-run",
        "gc",
        "move web --to w2",
    ] {
        let (code, stdout, stderr) = ferry(&format!("{line} --agent http://{address}"));
        assert_eq!(code, 3, "{line}: {stderr}");
        assert_is_one_sentence(line, &stderr);
        assert!(stderr.contains(&address.to_string()), "{line}: {stderr}");
        assert_eq!(stdout, "", "{line}");
    }
}

#[test]
fn help_goes_to_stdout_and_documents_the_exit_codes() {
    let (code, stdout, stderr) = ferry("--help");
    assert_eq!((code, stderr.as_str()), (0, ""));
    assert!(stdout.contains("Exit codes:"));
    assert!(!stdout.contains("demo-writer"));
    let (code, stdout, _) = ferry("machine create --help");
    assert_eq!(code, 0);
    assert!(stdout.contains("NAME=SIZE[,store=DEVICE][,direct]|VOLUME"));
}

#[test]
fn an_agent_without_its_configuration_ends_with_1_and_one_sentence() {
    let (code, _, stderr) = ferry("agent --config /does/not/exist.toml");
    assert_eq!(code, 1, "{stderr}");
    assert_is_one_sentence("agent", &stderr);
    assert!(stderr.contains("/does/not/exist.toml"), "{stderr}");
}

#[test]
fn only_the_directory_of_a_kept_demo_is_ended_and_removed() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("w1.toml"), "").unwrap();
    for path in [dir.path(), &dir.path().join("ferry-demo-1-0")] {
        let (code, _, stderr) = ferry(&format!("demo --end {}", path.display()));
        assert_eq!(code, 1, "{stderr}");
        assert_is_one_sentence("demo --end", &stderr);
    }
    assert!(dir.path().join("w1.toml").exists());
}

#[test]
fn a_volume_server_without_its_volume_ends_with_1_and_one_sentence() {
    let (code, _, stderr) = ferry("volume-server --dir /does/not/exist");
    assert_eq!(code, 1, "{stderr}");
    assert_is_one_sentence("volume-server", &stderr);
    assert!(stderr.contains("/does/not/exist"), "{stderr}");
}

#[test]
fn the_doctor_tells_whether_this_host_can_serve_volumes() {
    let dir = tempfile::tempdir().unwrap();
    let (code, stdout, stderr) = ferry(&format!("doctor --json --state-dir {}", dir.path().display()));
    assert_eq!((code, stderr.as_str()), (0, ""), "{stdout}");
    let report: serde_json::Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!(report["serves_volumes"], true);
    assert!(report["findings"].as_array().unwrap().len() > 10, "{stdout}");
    let (code, stdout, _) = ferry("doctor --state-dir /proc");
    assert_eq!(code, 1, "{stdout}");
    assert!(stdout.contains("MISSING  state directory") && stdout.contains("another state_dir"), "{stdout}");
}
