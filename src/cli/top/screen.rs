//! What is on the screen, and what keys do to it. Knows no terminal.

use ratatui::{
    Frame,
    crossterm::event::{KeyCode, KeyEvent, KeyEventKind, KeyModifiers},
    layout::{Constraint, Layout, Rect},
    style::{Color, Modifier, Style, Stylize as _},
    text::{Line, Text},
    widgets::{Block, Cell, Paragraph, Row as TableRow, Sparkline, SparklineBar, Table, TableState},
};

use super::table::{HEAD, causes, cells, idle, is_bad, rate, trend};
use crate::top::{Row, State, Top, Used};

/// Readings in a row's own line of bars.
const TREND: usize = 12;
/// Lines below the rows: one client, at length.
const DETAIL: u16 = 9;

/// By what rows are sorted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Order {
    /// Target, then client.
    #[default]
    Name,
    Refused,
    Saturation,
    Requests,
}

impl Order {
    const fn next(self) -> Self {
        match self {
            Self::Name => Self::Refused,
            Self::Refused => Self::Saturation,
            Self::Saturation => Self::Requests,
            Self::Requests => Self::Name,
        }
    }

    const fn word(self) -> &'static str {
        match self {
            Self::Name => "name",
            Self::Refused => "refused",
            Self::Saturation => "saturation",
            Self::Requests => "requests",
        }
    }
}

/// What a key did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum After {
    /// There is something else to draw.
    Draw,
    /// Nothing.
    Nothing,
    /// It is over.
    End,
}

/// The screen of `top`.
#[derive(Debug, Default)]
pub struct Screen {
    title: String,
    namespace: String,
    domain: String,
    colours: bool,
    top: Option<Top>,
    fault: Option<String>,
    held: bool,
    order: Order,
    reversed: bool,
    selected: usize,
}

impl Screen {
    /// An empty one. Hosts of `namespace` go by their names; colours are a help and carry nothing alone.
    #[must_use]
    pub fn new(title: String, namespace: String, domain: String, colours: bool) -> Self {
        Self { title, namespace, domain, colours, ..Self::default() }
    }

    /// Takes what was read, unless the picture is held.
    pub fn show(&mut self, read: Result<Top, Vec<String>>) {
        if self.held {
            return;
        }
        match read {
            Ok(top) => {
                // The one that was looked at stays so, wherever it is by now.
                let looked_at =
                    self.rows().get(self.selected).map(|row| (row.host.clone(), row.port, row.client.clone()));
                self.top = Some(top);
                self.fault = None;
                if let Some(looked_at) = looked_at {
                    self.select(|row| (row.host.clone(), row.port, row.client.clone()) == looked_at);
                }
            }
            Err(faults) => self.fault = Some(faults.join("; ")),
        }
    }

    fn select(&mut self, wanted: impl Fn(&Row) -> bool) {
        let rows = self.rows();
        let found = rows.iter().position(|row| wanted(row));
        self.selected = found.unwrap_or(self.selected).min(rows.len().saturating_sub(1));
    }

    /// Does what a key says.
    pub fn key(&mut self, key: KeyEvent) -> After {
        if key.kind == KeyEventKind::Release {
            return After::Nothing;
        }
        let last = self.rows().len().saturating_sub(1);
        match key.code {
            KeyCode::Char('q') | KeyCode::Esc => return After::End,
            KeyCode::Char('c') if key.modifiers.contains(KeyModifiers::CONTROL) => return After::End,
            KeyCode::Up | KeyCode::Char('k') => self.selected = self.selected.saturating_sub(1),
            KeyCode::Down | KeyCode::Char('j') => self.selected = (self.selected + 1).min(last),
            KeyCode::PageUp => self.selected = self.selected.saturating_sub(10),
            KeyCode::PageDown => self.selected = (self.selected + 10).min(last),
            KeyCode::Home => self.selected = 0,
            KeyCode::End => self.selected = last,
            KeyCode::Char('s') => self.order = self.order.next(),
            KeyCode::Char('r') => self.reversed = !self.reversed,
            KeyCode::Char('p' | ' ') => self.held = !self.held,
            _ => return After::Nothing,
        }
        After::Draw
    }

    /// Rows in the order of the screen.
    fn rows(&self) -> Vec<&Row> {
        let mut rows: Vec<&Row> = self.top.iter().flat_map(|top| &top.rows).collect();
        let down = |one: f64, other: f64| other.total_cmp(&one);
        match self.order {
            Order::Name => {}
            Order::Refused => rows.sort_by(|a, b| down(known(a.refused.per_s), known(b.refused.per_s))),
            Order::Requests => rows.sort_by(|a, b| down(known(a.requests_per_s), known(b.requests_per_s))),
            Order::Saturation => rows.sort_by_key(|row| std::cmp::Reverse(saturation(row))),
        }
        if self.reversed {
            rows.reverse();
        }
        rows
    }

    /// Draws it, whatever the size.
    pub fn draw(&self, frame: &mut Frame<'_>) {
        let notes = self.notes();
        let rows = self.rows();
        let selected = rows.get(self.selected).copied();
        // A low screen has rows alone.
        let detail = if frame.area().height < 18 || selected.is_none() { 0 } else { DETAIL };
        let notes_height = u16::try_from(notes.len()).unwrap_or(u16::MAX).min(3);
        let [head, body, below, told, keys] = Layout::vertical([
            Constraint::Length(1),
            Constraint::Min(2),
            Constraint::Length(detail),
            Constraint::Length(notes_height),
            Constraint::Length(1),
        ])
        .areas(frame.area());
        frame.render_widget(self.head(), head);
        self.table(frame, body, &rows);
        if let Some(row) = selected.filter(|_| detail > 0) {
            self.detail(frame, below, row);
        }
        frame.render_widget(Text::from_iter(notes).style(self.coloured(Color::Yellow)), told);
        let words = " q end  ↑↓ move  s sort  r turn round  p hold";
        frame.render_widget(Line::from(words).style(Style::new().add_modifier(Modifier::REVERSED)), keys);
    }

    fn head(&self) -> Line<'_> {
        let state = if self.held { ", held" } else { "" };
        let order = if self.reversed { "up from least" } else { "down" };
        let when = self.top.as_ref().map(|top| top.at.strftime("%H:%M:%S UTC").to_string());
        let when = when.unwrap_or_else(|| "reading …".to_owned());
        Line::from(format!("{}   {when}{state}   by {}, {order}", self.title, self.order.word())).bold()
    }

    fn notes(&self) -> Vec<Line<'_>> {
        let fault = self.fault.iter().map(|fault| Line::from(format!("not read: {fault}")));
        let top = self.top.iter();
        let idle = top.clone().filter_map(idle).map(Line::from);
        let notes = top.clone().flat_map(|top| &top.notes).map(|note| Line::from(note.as_str()));
        let unread = top.flat_map(|top| &top.unread).map(|unread| {
            Line::from(format!("{}/{} was not read: {}", unread.client.namespace, unread.client.pod, unread.why))
        });
        fault.chain(notes).chain(unread).chain(idle).collect()
    }

    fn table(&self, frame: &mut Frame<'_>, area: Rect, rows: &[&Row]) {
        if rows.is_empty() {
            let words = if self.top.is_some() { "no client has called anything yet" } else { "" };
            frame.render_widget(Paragraph::new(words), area);
            return;
        }
        let texts: Vec<[String; 9]> = rows.iter().map(|row| cells(row, &self.namespace, &self.domain)).collect();
        let head = HEAD.iter().map(|name| (*name).to_owned()).chain(["TREND OF REQ/S".to_owned()]);
        let widths = (0..HEAD.len()).map(|column| {
            let cells = texts.iter().map(|cells| cells[column].chars().count());
            let widest = cells.chain([HEAD[column].len()]).max().unwrap_or_default();
            Constraint::Length(u16::try_from(widest).unwrap_or(u16::MAX))
        });
        let widths: Vec<Constraint> = widths.chain([Constraint::Min(u16::try_from(TREND).unwrap_or(0))]).collect();
        let lines = rows.iter().zip(texts).map(|(row, cells)| {
            let bars = trend(&row.history.requests_per_s, TREND);
            let style = self.coloured(colour(row));
            let cells = cells.into_iter().enumerate().map(|(column, text)| {
                let cell = Cell::from(text);
                if column == 2 { cell.style(style) } else { cell }
            });
            TableRow::new(cells.chain([Cell::from(bars)]))
        });
        let table = Table::new(lines, widths)
            .header(TableRow::new(head).style(Style::new().add_modifier(Modifier::DIM)))
            .column_spacing(2)
            .row_highlight_style(Style::new().add_modifier(Modifier::REVERSED));
        let mut state = TableState::new().with_selected(self.selected.min(rows.len() - 1));
        frame.render_stateful_widget(table, area, &mut state);
    }

    /// One client at length: what was refused and why, who is out, and the past.
    fn detail(&self, frame: &mut Frame<'_>, area: Rect, row: &Row) {
        let client = &row.client;
        let block =
            Block::bordered().title(format!(" {}/{} calls {}:{} ", client.namespace, client.pod, row.host, row.port));
        let inner = block.inner(area);
        frame.render_widget(block, area);
        let [words, requests, refused] =
            Layout::horizontal([Constraint::Percentage(50), Constraint::Percentage(25), Constraint::Percentage(25)])
                .spacing(2)
                .areas(inner);
        let mut lines = causes(row);
        if lines.is_empty() {
            lines.push(if row.counted { "nothing is refused" } else { "what is refused is not known" }.to_owned());
        }
        frame.render_widget(Text::from_iter(lines), words);
        past(frame, requests, "requests/s", &row.history.requests_per_s, self.coloured(Color::Blue));
        past(frame, refused, "refused/s", &row.history.refused_per_s, self.coloured(Color::Yellow));
    }

    fn coloured(&self, colour: Color) -> Style {
        if self.colours { Style::new().fg(colour) } else { Style::new() }
    }
}

fn past(frame: &mut Frame<'_>, area: Rect, name: &str, numbers: &[Option<f64>], style: Style) {
    let [head, bars] = Layout::vertical([Constraint::Length(1), Constraint::Min(1)]).areas(area);
    let most = numbers.iter().copied().flatten().reduce(f64::max);
    frame.render_widget(Line::from(format!("{name}, up to {}", rate(most))), head);
    let shown = &numbers[numbers.len().saturating_sub(usize::from(area.width))..];
    let shown = shown.iter().map(|number| SparklineBar::from(number.map(thousandths)));
    frame.render_widget(Sparkline::default().data(shown).style(style), bars);
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a rate, never below 0")]
fn thousandths(number: f64) -> u64 {
    (number * 1000.0) as u64
}

/// What is not known is sorted below what is nothing.
fn known(number: Option<f64>) -> f64 {
    number.unwrap_or(-1.0)
}

/// The limit that is used most, in percent.
fn saturation(row: &Row) -> Option<u64> {
    [row.active_requests, row.pending_requests, row.connections].into_iter().filter_map(Used::percent).max()
}

fn colour(row: &Row) -> Color {
    match () {
        () if is_bad(row) => Color::Red,
        () if row.states.contains(&State::Unknown) => Color::Yellow,
        () => Color::Green,
    }
}

#[cfg(test)]
mod tests;
