use std::time::Duration;

use jiff::Timestamp;
use ratatui::{Terminal, backend::TestBackend};

use super::*;
use crate::top::{Proxy, Reading, Sample, Wanted, Watch};

const NAMES: [&str; 3] = ["calm", "limited", "unlucky"];

/// Three clients: one within its limit, one past it, one with an endpoint out.
fn round(watch: &mut Watch, second: u64) -> Top {
    let host = "shop.ns.svc.cluster.local";
    let name = format!("outbound|80||{host}");
    let readings = NAMES.iter().map(|client| {
        let flags = if *client == "unlucky" { "/failed_outlier_check" } else { "healthy" };
        let clusters = format!(
            "{name}::default_priority::max_requests::4\n{name}::10.0.0.1:80::rq_total::{}\n{name}::10.0.0.1:80::health_flags::{flags}\n",
            1 + second * 10
        );
        let overflow = if *client == "limited" { second * 5 } else { 0 };
        let stats = format!(
            "cluster.{name};.upstream_rq_total: {}\ncluster.{name};.upstream_rq_active: 2\ncluster.{name};.upstream_rq_active_overflow: {overflow}\n",
            1 + second * 10
        );
        Reading {
            proxy: Proxy { namespace: "ns".to_owned(), pod: (*client).to_owned(), workload: None },
            taken: Duration::from_secs(second),
            sample: Ok(Sample::read(&clusters, &stats, &Wanted::Host(host.to_owned()))),
        }
    });
    watch.take(Timestamp::UNIX_EPOCH, readings.collect(), Vec::new())
}

fn screen() -> Screen {
    let mut screen = Screen::new("shop".to_owned(), "ns".to_owned(), "cluster.local".to_owned(), false);
    let mut watch = Watch::default();
    for second in 0..3 {
        screen.show(Ok(round(&mut watch, second)));
    }
    screen
}

fn drawn(screen: &Screen, width: u16, height: u16) -> String {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    terminal.draw(|frame| screen.draw(frame)).unwrap();
    terminal.backend().to_string()
}

fn press(screen: &mut Screen, code: KeyCode) -> After {
    screen.key(KeyEvent::from(code))
}

fn clients(screen: &Screen) -> Vec<&str> {
    screen.rows().iter().map(|row| row.client.pod.as_str()).collect()
}

#[test]
fn each_client_is_a_line_that_says_what_its_breaker_does() {
    let text = drawn(&screen(), 140, 24);
    let line = |client: &str| text.lines().find(|line| line.contains(client) && !line.contains("calls")).unwrap();
    assert!(line("calm").contains("closed") && line("calm").contains("2 of 4"), "{text}");
    assert!(line("limited").contains("limiting") && line("limited").contains("5.0 (33 %)"), "{text}");
    assert!(line("unlucky").contains("ejecting") && line("unlucky").contains("1 of 1"), "{text}");
}

#[test]
fn the_chosen_client_is_told_at_length() {
    let mut screen = screen();
    press(&mut screen, KeyCode::Down);
    let text = drawn(&screen, 140, 24);
    assert!(text.contains("ns/limited calls shop.ns.svc.cluster.local:80"), "{text}");
    assert!(text.contains("5.0/s refused: activeRequests (10 in all)"), "{text}");
}

#[test]
fn keys_sort_turn_round_move_and_end() {
    let mut screen = screen();
    assert_eq!(clients(&screen), NAMES);
    press(&mut screen, KeyCode::Char('s'));
    assert_eq!(clients(&screen)[0], "limited", "by what is refused");
    press(&mut screen, KeyCode::Char('r'));
    assert_eq!(clients(&screen)[2], "limited");
    press(&mut screen, KeyCode::End);
    assert_eq!(screen.selected, 2);
    press(&mut screen, KeyCode::Down);
    assert_eq!(screen.selected, 2, "there is no row below the last");
    assert_eq!(press(&mut screen, KeyCode::Char('x')), After::Nothing);
    assert_eq!(press(&mut screen, KeyCode::Char('q')), After::End);
    let control = KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL);
    assert_eq!(screen.key(control), After::End);
}

#[test]
fn a_held_picture_stays_as_it_is() {
    let mut screen = screen();
    let before = drawn(&screen, 140, 24);
    press(&mut screen, KeyCode::Char('p'));
    screen.show(Ok(round(&mut Watch::default(), 9)));
    screen.show(Err(vec!["gone".to_owned()]));
    assert!(drawn(&screen, 140, 24).contains(", held"));
    press(&mut screen, KeyCode::Char('p'));
    assert_eq!(drawn(&screen, 140, 24), before);
}

#[test]
fn what_cannot_be_read_any_more_is_said_and_the_last_picture_stays() {
    let mut screen = screen();
    screen.show(Err(vec!["the API server did not answer".to_owned()]));
    let text = drawn(&screen, 140, 24);
    assert!(text.contains("not read: the API server did not answer") && text.contains("limited"), "{text}");
}

#[test]
fn it_fits_any_terminal() {
    let screen = screen();
    for (width, height) in [(1, 1), (10, 3), (20, 8), (80, 17), (80, 18), (400, 100)] {
        drawn(&screen, width, height);
    }
    drawn(&Screen::default(), 80, 24);
}
