//! Starting a helper, and listening to it with suspicion.

use std::{
    error::Error as _,
    io,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use tokio::io::{AsyncBufRead, BufReader};

use super::{
    super::ask::Round,
    DEADLINE, MAX_QUESTIONS, Question, VERB,
    message::{self, Message, MessageError},
};

/// Beyond a helper's own limit: it should be the one to end.
const GRACE: Duration = Duration::from_secs(5);

/// Why a helper brought nothing, or not all.
#[derive(Debug, thiserror::Error)]
enum StartError {
    #[error("the target is not there")]
    NotThere,
    #[error("cannot start {}", program.display())]
    Spawn {
        program: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error(transparent)]
    Message(#[from] MessageError),
    #[error("the helper speaks of a question that was not asked")]
    NotAsked,
    #[error("{0}")]
    Unable(String),
    #[error("the helper took more than {} s", (DEADLINE + GRACE).as_secs())]
    Late,
    #[error("the helper ended early")]
    Early,
}

/// Asks a target's nameservers: one round for each question, in order, failed where nothing came.
///
/// Dropping the future ends the helper, and so does the end of the calling thread.
pub(in super::super) async fn ask(program: &Path, cgroups: &[PathBuf], questions: &[Question]) -> Vec<Round> {
    let mut rounds = vec![None; questions.len()];
    let result = talk(program, cgroups, questions, &mut rounds).await;
    let error = result.err().unwrap_or(StartError::Early);
    let cause = error
        .source()
        .map(|cause| format!(": {cause}"))
        .unwrap_or_default();
    let why = format!("{error}{cause}");
    let rounds = rounds.into_iter().zip(questions);
    rounds
        .map(|(round, question)| round.unwrap_or_else(|| Round::failed(question.families, &why)))
        .collect()
}

/// Starts a helper, listens to it, and sees it end, whatever it said.
async fn talk(
    program: &Path,
    cgroups: &[PathBuf],
    questions: &[Question],
    rounds: &mut [Option<Round>],
) -> Result<(), StartError> {
    if cgroups.is_empty() {
        return Err(StartError::NotThere);
    }
    let mut command = Command::new(program);
    command
        .arg(VERB)
        .args(["--parent", &std::process::id().to_string()])
        .args(cgroups.iter().flat_map(|cgroup| [Path::new("--cgroup"), cgroup]))
        .arg("--")
        .args(questions.iter().take(MAX_QUESTIONS).map(Question::to_string))
        // Nothing of this process's is of use inside.
        .env_clear()
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null());
    let mut command = tokio::process::Command::from(command);
    let spawn = |source| StartError::Spawn {
        program: program.to_owned(),
        source,
    };
    let mut helper = command.kill_on_drop(true).spawn().map_err(spawn)?;
    let Some(out) = helper.stdout.take() else {
        return Err(spawn(io::Error::from(io::ErrorKind::BrokenPipe)));
    };
    let heard = tokio::time::timeout(DEADLINE + GRACE, listen(BufReader::new(out), questions, rounds)).await;
    // It has nothing more to do; waiting for its end would be waiting for a stranger.
    let _ended_already = helper.start_kill();
    // Its end is collected, so that it does not stay behind as a zombie. SIGKILL cannot be put off.
    let _status = helper.wait().await;
    heard.unwrap_or(Err(StartError::Late))
}

async fn listen(
    mut out: impl AsyncBufRead + Unpin,
    questions: &[Question],
    rounds: &mut [Option<Round>],
) -> Result<(), StartError> {
    // One line a question, and whatever comes beyond is not read.
    while rounds.iter().any(Option::is_none) {
        match message::read(&mut out).await? {
            None => break,
            Some(Message::Unable { why }) => return Err(StartError::Unable(why)),
            Some(Message::Answer { number, round }) => {
                let asked = questions.get(number).zip(rounds.get_mut(number));
                match asked {
                    // Said once, and with what was asked for.
                    Some((question, place @ None))
                        if round.aaaa.is_some() == (question.families == super::super::Families::Both) =>
                    {
                        *place = Some(round);
                    }
                    _ => return Err(StartError::NotAsked),
                }
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt as _};

    use super::{super::super::Families, *};

    /// A program that leaves its number behind, says that, and goes on for longer than any test.
    fn stranger(folder: &Path, says: &str) -> PathBuf {
        let program = folder.join("stranger");
        let text = format!(
            "#!/bin/sh\necho $$ > {}/pid\n{says}\nexec sleep 1000\n",
            folder.display()
        );
        // Nobody is writing to it when it is executed: another thread's fork could hold a writer open otherwise.
        fs::write(folder.join("made"), text).unwrap();
        fs::copy(folder.join("made"), &program).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        program
    }

    #[tokio::test]
    async fn a_helper_is_gone_when_its_answer_is_there_whatever_it_was() {
        let questions = [Question {
            name: "db.example".parse().unwrap(),
            families: Families::Ipv4,
        }];
        for (says, why) in [
            ("echo nonsense", "the helper wrote what is no message"),
            ("echo '{\"unable\":{\"why\":\"no way\"}}'", "no way"),
            ("exec true", "the helper ended early"),
        ] {
            let folder = tempfile::tempdir().unwrap();
            let program = stranger(folder.path(), says);
            let rounds = ask(&program, &[folder.path().to_owned()], &questions).await;
            let said = format!("{rounds:?}");
            assert!(said.contains(why), "{said}");
            let pid = fs::read_to_string(folder.path().join("pid")).unwrap();
            // A zombie would still be listed.
            let process = Path::new("/proc").join(pid.trim());
            assert!(!process.exists(), "{says}: {}", process.display());
        }
    }
}
