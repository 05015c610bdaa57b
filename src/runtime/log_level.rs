//! How much is logged, changed while the operator runs: `kubectl exec … -- resilience-operator log-level debug`.
//!
//! Over a socket that has no file and no port: it is found by name in the network namespace of the pod, and so by
//! those alone who may run a program in it. A port, also of the loopback alone, would be within reach of a proxy
//! beside the operator. One line of JSON asks, one answers.

use std::{
    io,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use anyhow::Context as _;
use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, BufReader},
    net::UnixListener,
};
use tracing_subscriber::EnvFilter;

use super::telemetry;

/// A question is far shorter.
const LONGEST: u64 = 4096;
/// Who is slower has gone.
const PATIENCE: Duration = Duration::from_secs(5);

/// What is asked.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Question {
    /// The level or filter that is wanted; `None`: only what it is.
    pub filter: Option<String>,
    /// For how long; `None`: until it is changed again.
    #[serde(with = "humantime_serde")]
    pub lasts: Option<Duration>,
}

/// What is logged.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Level {
    /// The level or filter.
    pub filter: String,
    /// What the operator was started with, and goes back to.
    pub started_with: String,
    /// When it ends by itself, as RFC 3339 has it; null: it does not.
    #[schemars(with = "Option<String>")]
    pub until: Option<Timestamp>,
}

/// What is answered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Answer {
    /// It is so.
    Is(Level),
    /// Nothing was changed, because of this.
    Refused(String),
}

/// The hold on how much is logged.
pub struct LogLevel {
    level: Mutex<Level>,
    apply: Box<dyn Fn(EnvFilter) -> anyhow::Result<()> + Send + Sync>,
}

impl LogLevel {
    /// `filter` is what is applied already; `apply` puts another in its place.
    pub fn new(filter: &str, apply: impl Fn(EnvFilter) -> anyhow::Result<()> + Send + Sync + 'static) -> Self {
        let level = Level { filter: filter.to_owned(), started_with: filter.to_owned(), until: None };
        Self { level: Mutex::new(level), apply: Box::new(apply) }
    }

    /// What is logged.
    #[must_use]
    pub fn now(&self) -> Level {
        self.locked().clone()
    }

    /// Answers a question, and does what it asks.
    pub fn answer(&self, question: &Question, now: Timestamp) -> Answer {
        let changed = question.filter.as_deref().map_or(Ok(()), |filter| self.set(filter, question.lasts, now));
        changed.map_or_else(|error| Answer::Refused(format!("{error:#}")), |()| Answer::Is(self.now()))
    }

    fn set(&self, text: &str, lasts: Option<Duration>, now: Timestamp) -> anyhow::Result<()> {
        let filter = telemetry::filter(text)?;
        let until = lasts.map(|lasts| now.checked_add(lasts)).transpose().context("that is too long")?;
        let mut level = self.locked();
        (self.apply)(filter)?;
        text.clone_into(&mut level.filter);
        level.until = until;
        drop(level);
        tracing::info!(filter = text, until = until.map(|until| until.to_string()), "another log level");
        Ok(())
    }

    /// Goes back to what the operator was started with, if the time has come.
    pub fn tick(&self, now: Timestamp) {
        let level = self.now();
        if level.until.is_some_and(|until| until <= now)
            && let Err(error) = self.set(&level.started_with, None, now)
        {
            tracing::warn!(error = format!("{error:#}"), "the log level stays");
        }
    }

    fn locked(&self) -> MutexGuard<'_, Level> {
        self.level.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Answers whoever asks; ends never. What one asks cannot hurt another.
pub async fn serve(listener: UnixListener, level: &LogLevel) {
    let mut clock = tokio::time::interval(Duration::from_secs(1));
    loop {
        tokio::select! {
            _ = clock.tick() => level.tick(Timestamp::now()),
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    let answered = tokio::time::timeout(PATIENCE, answer(stream, level)).await;
                    if let Err(error) = answered.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())) {
                        tracing::debug!(%error, "who asked for the log level has gone");
                    }
                }
                Err(error) => {
                    tracing::warn!(%error, "the log level cannot be asked for");
                    tokio::time::sleep(PATIENCE).await;
                }
            }
        }
    }
}

async fn answer(mut stream: impl AsyncRead + AsyncWrite + Unpin, level: &LogLevel) -> io::Result<()> {
    let mut line = String::new();
    BufReader::new((&mut stream).take(LONGEST)).read_line(&mut line).await?;
    let answer = match serde_json::from_str(&line) {
        Ok(question) => level.answer(&question, Timestamp::now()),
        Err(error) => Answer::Refused(format!("no question: {error}")),
    };
    stream.write_all(&line_of(&answer)?).await?;
    stream.shutdown().await
}

/// Asks the operator whose admin server listens on this port.
///
/// # Errors
/// If there is none, or it does not answer.
pub async fn ask(port: u16, question: &Question) -> anyhow::Result<Answer> {
    let asked = async {
        let mut stream = socket::connect(port)?;
        stream.write_all(&line_of(question)?).await?;
        let mut line = String::new();
        BufReader::new(stream).read_line(&mut line).await?;
        anyhow::Ok(serde_json::from_str(&line)?)
    };
    tokio::time::timeout(PATIENCE, asked)
        .await
        .unwrap_or_else(|_| Err(io::Error::from(io::ErrorKind::TimedOut).into()))
        .with_context(|| format!("no operator answers here: run it where the operator runs (kubectl exec), whose admin server listens on port {port}"))
}

fn line_of(words: &impl Serialize) -> io::Result<Vec<u8>> {
    let mut line = serde_json::to_vec(words)?;
    line.push(b'\n');
    Ok(line)
}

/// Takes the socket's name.
///
/// # Errors
/// If it is taken, or there are no such sockets on this system.
pub fn bind(port: u16) -> io::Result<UnixListener> {
    socket::bind(port)
}

#[cfg(target_os = "linux")]
mod socket {
    use std::{
        io,
        os::{
            linux::net::SocketAddrExt as _,
            unix::net::{SocketAddr, UnixListener as Listener, UnixStream as Stream},
        },
    };

    use tokio::net::{UnixListener, UnixStream};

    /// Two operators in one network namespace differ by their admin servers' ports.
    fn name(port: u16) -> io::Result<SocketAddr> {
        SocketAddr::from_abstract_name(format!("{}/log-level/{port}", crate::names::OPERATOR))
    }

    pub fn bind(port: u16) -> io::Result<UnixListener> {
        let listener = Listener::bind_addr(&name(port)?)?;
        listener.set_nonblocking(true)?;
        UnixListener::from_std(listener)
    }

    pub fn connect(port: u16) -> io::Result<UnixStream> {
        let stream = Stream::connect_addr(&name(port)?)?;
        stream.set_nonblocking(true)?;
        UnixStream::from_std(stream)
    }
}

#[cfg(not(target_os = "linux"))]
mod socket {
    use std::io;

    use tokio::net::{UnixListener, UnixStream};

    pub fn bind(_port: u16) -> io::Result<UnixListener> {
        Err(io::ErrorKind::Unsupported.into())
    }

    pub fn connect(_port: u16) -> io::Result<UnixStream> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn recorded() -> (Arc<Mutex<Vec<String>>>, LogLevel) {
        let applied = Arc::new(Mutex::new(Vec::new()));
        let seen = applied.clone();
        let level = LogLevel::new("info", move |filter| {
            seen.lock().unwrap().push(filter.to_string());
            Ok(())
        });
        (applied, level)
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn question(filter: &str, lasts: Option<u64>) -> Question {
        Question { filter: Some(filter.to_owned()), lasts: lasts.map(Duration::from_secs) }
    }

    #[test]
    fn a_level_for_a_time_goes_back_when_it_is_over_and_not_before() {
        let (applied, level) = recorded();
        let Answer::Is(said) = level.answer(&question("debug", Some(60)), at(0)) else { panic!("refused") };
        assert_eq!((said.filter.as_str(), said.until, said.started_with.as_str()), ("debug", Some(at(60)), "info"));
        level.tick(at(59));
        assert_eq!(level.now().filter, "debug");
        level.tick(at(60));
        assert_eq!((level.now().filter.as_str(), level.now().until), ("info", None));
        assert_eq!(*applied.lock().unwrap(), ["debug", "info"]);
    }

    #[test]
    fn a_later_word_counts_and_an_earlier_end_is_forgotten() {
        let (_, level) = recorded();
        level.answer(&question("debug", Some(60)), at(0));
        level.answer(&question("trace", None), at(1));
        level.tick(at(100));
        assert_eq!(level.now().filter, "trace");
    }

    #[test]
    fn what_is_no_level_changes_nothing_and_says_so() {
        let (applied, level) = recorded();
        let Answer::Refused(why) = level.answer(&question("dbug", None), at(0)) else { panic!("taken") };
        assert!(why.contains("\"dbug\" is no level"), "{why}");
        assert!(applied.lock().unwrap().is_empty());
        assert_eq!(level.now().filter, "info");
    }

    #[tokio::test]
    async fn it_is_asked_and_changed_through_the_socket_whatever_others_say_to_it() {
        let (_, level) = recorded();
        // A name of our own: of a port that nobody listens on while this process has it.
        let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = taken.local_addr().unwrap().port();
        let listener = bind(port).unwrap();
        assert!(bind(port).is_err(), "two operators of one port");
        let asked = async {
            let mut rude = socket::connect(port).unwrap();
            rude.write_all(b"GET / HTTP/1.1\n").await.unwrap();
            let mut said = String::new();
            rude.read_to_string(&mut said).await.unwrap();
            assert!(said.contains("no question"), "{said}");
            let Answer::Is(said) = ask(port, &Question::default()).await.unwrap() else { panic!("refused") };
            assert_eq!(said.filter, "info");
            let Answer::Is(said) = ask(port, &question("info,kube=debug", None)).await.unwrap() else {
                panic!("refused")
            };
            assert_eq!(said.filter, "info,kube=debug");
        };
        tokio::select! {
            () = serve(listener, &level) => {}
            () = asked => {}
        }
        let error = ask(1, &Question::default()).await.unwrap_err();
        assert!(format!("{error:#}").contains("no operator answers here"), "{error:#}");
    }
}
