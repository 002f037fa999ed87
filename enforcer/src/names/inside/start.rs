//! Starting a helper, and listening to it with suspicion.

use std::{
    error::Error as _,
    io,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use tokio::io::BufReader;

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
    let result = tokio::time::timeout(DEADLINE + GRACE, listen(program, cgroups, questions, &mut rounds))
        .await
        .unwrap_or(Err(StartError::Late));
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

async fn listen(
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
    let mut out = BufReader::new(out);
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
    // It has nothing more to do; waiting for its end would be waiting for a stranger.
    let _ended_already = helper.start_kill();
    // Its end is collected, so that it does not stay behind as a zombie. SIGKILL cannot be put off.
    let _status = helper.wait().await;
    Ok(())
}
