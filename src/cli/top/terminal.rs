//! The screen on a terminal: draws, reads keys, and leaves the terminal as it was.

use std::time::Duration;

use anyhow::Context as _;
use ratatui::crossterm::event::{self, Event};
use tokio::{
    sync::mpsc,
    time::{MissedTickBehavior, interval},
};

use super::{
    Rounds,
    screen::{After, Screen},
};
use crate::{cli::Io, runtime::shutdown, top::Top};

/// Shows round after round until somebody ends it.
///
/// # Errors
/// If there is no drawing on the terminal.
pub(super) async fn run(rounds: Rounds, every: Duration) -> anyhow::Result<()> {
    let stop = shutdown::on_signal()?;
    let colours = Io::of_process(false).paint.is_on();
    let mut screen = Screen::new(rounds.title(), rounds.namespace.clone(), rounds.domain.clone(), colours);
    let mut terminal = ratatui::try_init().context("there is no drawing on this terminal: --once prints a table")?;
    let ended = shown(&mut terminal, &mut screen, rounds, every, stop.cancelled_owned()).await;
    ratatui::restore();
    ended
}

async fn shown(
    terminal: &mut ratatui::DefaultTerminal,
    screen: &mut Screen,
    rounds: Rounds,
    every: Duration,
    stopped: impl Future<Output = ()>,
) -> anyhow::Result<()> {
    let mut stopped = std::pin::pin!(stopped);
    let (mut keys, mut read) = (keys(), read(rounds, every));
    loop {
        terminal.draw(|frame| screen.draw(frame)).context("the terminal cannot be drawn on")?;
        tokio::select! {
            () = &mut stopped => return Ok(()),
            top = read.recv() => match top {
                Some(top) => screen.show(top),
                None => return Ok(()),
            },
            event = keys.recv() => match event {
                Some(Event::Key(key)) if screen.key(key) == After::End => return Ok(()),
                // Of another size it is drawn anew.
                Some(_) => {}
                None => return Ok(()),
            },
        }
    }
}

/// Rounds, one after another, so that a slow proxy does not hold up the keys.
fn read(mut rounds: Rounds, every: Duration) -> mpsc::Receiver<Result<Top, Vec<String>>> {
    let (sender, receiver) = mpsc::channel(1);
    tokio::spawn(async move {
        let mut tick = interval(every);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tick.tick().await;
            if sender.send(rounds.next().await).await.is_err() {
                return;
            }
        }
    });
    receiver
}

/// Keys, and changes of size. The thread waits for the next key for as long as the process lives.
fn keys() -> mpsc::Receiver<Event> {
    let (sender, receiver) = mpsc::channel(16);
    std::thread::spawn(move || {
        while let Ok(event) = event::read() {
            if sender.blocking_send(event).is_err() {
                return;
            }
        }
    });
    receiver
}
