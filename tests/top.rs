//! `top`: what proxies said in an incident on the lab, and what is told of it: as data, on the screen, on the page.
//!
//! `tests/top/*.clusters.txt` and `*.stats.txt` are readings of one client's Envoy, two of each act, some seconds apart.
//! `UPDATE_GOLDEN=1 cargo test top` writes `tests/top/told.json` and `docs/top.svg` anew; look at both.

use std::{fmt::Write as _, sync::Arc, time::Duration};

use axum::{
    body::Body,
    http::{Request, StatusCode, header},
};
use futures::FutureExt as _;
use http_body_util::BodyExt as _;
use jiff::Timestamp;
use ratatui::{
    Terminal,
    backend::TestBackend,
    buffer::{Buffer, Cell},
    style::{Color, Modifier},
};
use resilience_operator::{
    cli::top::{Screen, router},
    top::{Proxy, Reading, Sample, Top, Wanted, Watch},
};
use serde_json::{Value, json};
use tower::ServiceExt as _;

use crate::support::{difference, files, read, root};

const HOST: &str = "httpbin.resilience-demo.svc.cluster.local";
/// When each was taken, in milliseconds since the first.
const TAKEN: [u64; 8] = [0, 7_584, 22_411, 31_362, 85_460, 93_530, 108_557, 118_713];

/// Every reading in turn, as told.
fn told() -> Vec<Top> {
    let mut watch = Watch::default();
    let readings = files("tests/top", ".clusters.txt").into_iter().zip(TAKEN).map(|(path, taken)| {
        let taken = Duration::from_millis(taken);
        let clusters = read(&path);
        let stats = read(path.to_string_lossy().replace(".clusters.", ".stats."));
        let mut sample = Sample::read(&clusters, &stats, &Wanted::Host(HOST.to_owned()));
        if sample.ejects() {
            sample.add_ejection_times(&serde_json::from_str(&read("tests/top/config.json")).unwrap());
        }
        let proxy = Proxy {
            namespace: "resilience-demo".to_owned(),
            pod: "fortio".to_owned(),
            workload: Some("fortio".to_owned()),
        };
        let reading = Reading { proxy, taken, sample: Ok(sample) };
        watch.take(Timestamp::UNIX_EPOCH + taken, vec![reading], Vec::new())
    });
    readings.collect()
}

fn golden(path: &str, made: &str) {
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(root().join(path), made).unwrap();
    }
    let have = read(path);
    assert!(have == made, "{path} is not what is made:\n{}", difference(&have, made));
}

#[test]
fn an_incident_is_told_as_it_was_counted() {
    let rows: Vec<Value> = told().iter().map(|top| serde_json::to_value(&top.rows).unwrap()).collect();
    golden("tests/top/told.json", &(serde_json::to_string_pretty(&rows).unwrap() + "\n"));
    let states: Vec<&Value> = rows.iter().map(|rows| &rows[0]["states"]).collect();
    let wanted = ["Closed", "Limiting", "Ejecting", "Closed"];
    let second_of_each: Vec<&Value> = states.into_iter().skip(1).step_by(2).collect();
    assert_eq!(json!(second_of_each), json!(wanted.map(|state| json!([state]))));
}

#[test]
fn the_terminals_picture_in_the_documentation_is_what_it_shows() {
    let mut screen = Screen::new(HOST.to_owned(), "resilience-demo".to_owned(), "cluster.local".to_owned(), true);
    // To the end of the third act: an endpoint is out.
    for top in told().into_iter().take(6) {
        screen.show(Ok(top));
    }
    let mut terminal = Terminal::new(TestBackend::new(132, 18)).unwrap();
    terminal.draw(|frame| screen.draw(frame)).unwrap();
    golden("docs/top.svg", &svg(terminal.backend().buffer()));
}

/// A terminal as a picture.
fn svg(buffer: &Buffer) -> String {
    let (width, height) = (f64::from(buffer.area.width) * 8.0, f64::from(buffer.area.height) * 17.0);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {} {}\" font-family=\"ui-monospace, Menlo, Consolas, DejaVu Sans Mono, monospace\" font-size=\"13\" role=\"img\" aria-label=\"kubectl resilience top in a terminal\">\n<rect width=\"100%\" height=\"100%\" fill=\"#14181c\"/>\n",
        width + 20.0,
        height + 20.0
    );
    for y in 0..buffer.area.height {
        let mut x = 0;
        while x < buffer.area.width {
            let style = |x: u16| (buffer[(x, y)].fg, buffer[(x, y)].modifier);
            let from = x;
            while x < buffer.area.width && style(x) == style(from) {
                x += 1;
            }
            let text: String = (from..x).map(|x| buffer[(x, y)].symbol()).collect();
            run(&mut svg, &buffer[(from, y)], &text, from, y);
        }
    }
    svg + "</svg>\n"
}

/// Cells of one style, beside each other.
fn run(svg: &mut String, style: &Cell, text: &str, x: u16, y: u16) {
    let colour = match style.fg {
        Color::Red => "#ff7b72",
        Color::Yellow => "#e3b341",
        Color::Green => "#57c96b",
        Color::Blue => "#56b4e9",
        _ if style.modifier.contains(Modifier::DIM) => "#9aa4ae",
        _ => "#e6e9ec",
    };
    let (left, top) = (10.0 + f64::from(x) * 8.0, 10.0 + f64::from(y) * 17.0);
    let width = width_of(text.chars().count());
    let reversed = style.modifier.contains(Modifier::REVERSED);
    if reversed {
        writeln!(svg, "<rect x=\"{left}\" y=\"{top}\" width=\"{width}\" height=\"17\" fill=\"{colour}\"/>").unwrap();
    }
    let colour = if reversed { "#14181c" } else { colour };
    let weight = if style.modifier.contains(Modifier::BOLD) { " font-weight=\"bold\"" } else { "" };
    for (column, words) in phrases(text) {
        let (left, width) = (left + width_of(column), width_of(words.chars().count()));
        let words = words.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
        writeln!(
            svg,
            "<text x=\"{left}\" y=\"{}\" textLength=\"{width}\" fill=\"{colour}\"{weight}>{words}</text>",
            top + 13.0
        )
        .unwrap();
    }
}

fn width_of(columns: usize) -> f64 {
    8.0 * f64::from(u16::try_from(columns).unwrap())
}

/// What stands between gaps, and where: browsers make one blank of several.
fn phrases(text: &str) -> Vec<(usize, &str)> {
    let mut from = 0;
    let parts = text.split("  ").map(|part| {
        let at = from + part.chars().take_while(|sign| *sign == ' ').count();
        from += part.chars().count() + 2;
        (at, part.trim_matches(' '))
    });
    parts.filter(|(_, words)| !words.is_empty()).collect()
}

/// What the page's server answers to a GET of `path` that names it so.
async fn ask(host: &str, path: &str, read: Result<Top, Vec<String>>) -> (StatusCode, String, String) {
    let look = Arc::new(move || {
        let read = read.clone();
        async move { read }.boxed()
    });
    let request = Request::get(path).header(header::HOST, host).body(Body::empty()).unwrap();
    let answer = router(look).oneshot(request).await.unwrap();
    let kind = answer.headers().get(header::CONTENT_TYPE).map(|kind| kind.to_str().unwrap().to_owned());
    let (status, body) = (answer.status(), answer.into_body().collect().await.unwrap().to_bytes());
    (status, kind.unwrap_or_default(), String::from_utf8(body.to_vec()).unwrap())
}

#[tokio::test]
async fn the_page_answers_to_names_of_this_machine_alone() {
    let top = told().remove(1);
    for host in ["127.0.0.1:4000", "localhost:9", "localhost", "[::1]:80"] {
        let (status, kind, body) = ask(host, "/", Ok(top.clone())).await;
        assert!(status == StatusCode::OK && kind.starts_with("text/html"), "{host}: {status}");
        assert!(body.contains("<title>kubectl resilience top</title>"));
        let (status, kind, body) = ask(host, "/top.json", Ok(top.clone())).await;
        assert!(status == StatusCode::OK && kind == "application/json", "{host}: {status}");
        assert_eq!(serde_json::from_str::<Value>(&body).unwrap(), serde_json::to_value(&top).unwrap());
    }
    for host in ["evil.example:4000", "127.0.0.1.evil.example", "localhost.evil.example:80", "", "10.0.0.1:80"] {
        for path in ["/", "/top.json"] {
            let (status, _, body) = ask(host, path, Ok(top.clone())).await;
            assert!(status == StatusCode::FORBIDDEN && !body.contains("fortio"), "{host}{path}: {status}");
        }
    }
}

#[tokio::test]
async fn the_page_is_told_what_could_not_be_read() {
    let faults = vec!["ask for the right".to_owned(), "and for another".to_owned()];
    let (status, _, body) = ask("localhost", "/top.json", Err(faults)).await;
    assert_eq!((status, body.as_str()), (StatusCode::BAD_GATEWAY, "ask for the right\nand for another"));
}

#[test]
fn the_page_loads_nothing_from_elsewhere() {
    let page = read("src/cli/top/page.html");
    // The name of a kind of picture is no address.
    let page = page.replace("http://www.w3.org/2000/svg", "");
    for word in ["http:", "https:", "//cdn", "src=", "@import", "innerHTML"] {
        assert!(!page.contains(word), "it has {word}");
    }
}
