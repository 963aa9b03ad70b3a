//! The live view: lines that stay and, on a terminal, one line or bar under them that changes.
//!
//! Three ways to look at the same events: redrawn on a terminal, plain lines elsewhere, nothing for scripts that
//! asked for JSON.

use std::io;
use std::time::{Duration, Instant};

use ferry_api::{JobEvent, Progress};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::progress::{Line, Mark, Story, hydration_text};
use super::{Paint, say, stdout_is_terminal};

/// Columns the names of steps take.
const STEP_WIDTH: usize = 9;
/// How often the line that changes is redrawn.
const TICK: Duration = Duration::from_millis(80);
/// How often progress is told where nothing can be redrawn.
const PLAIN_PROGRESS_EVERY: Duration = Duration::from_secs(1);

/// Shows nothing.
const BLANK: &str = "";
/// Several lines that change together.
const LINES: &str = "{msg}";
/// What goes on now.
const SPINNER: &str = "  {spinner} {prefix:9}  {msg}";
/// How far it is. With the longest text that is usual it fits 80 columns: a line that wraps cannot be redrawn.
const BAR: &str = "  {spinner} {prefix:9}  [{bar:20}] {msg}";

/// Where the view goes.
enum Surface {
    Terminal { bar: ProgressBar, template: &'static str },
    Plain { told_at: Option<Instant> },
    Nowhere,
}

/// A live view on stdout.
pub struct Live {
    surface: Surface,
    paint: Paint,
    story: Story,
}

impl Live {
    /// A view for people, or none at all if `json` was asked for.
    pub fn new(json: bool) -> Self {
        let surface = if json {
            Surface::Nowhere
        } else if stdout_is_terminal() {
            let bar = ProgressBar::hidden();
            bar.set_style(style(BLANK));
            bar.set_draw_target(ProgressDrawTarget::stdout());
            bar.enable_steady_tick(TICK);
            Surface::Terminal { bar, template: BLANK }
        } else {
            Surface::Plain { told_at: None }
        };
        Self { surface, paint: Paint::for_stdout(), story: Story::default() }
    }

    /// A line that stays.
    ///
    /// # Errors
    /// stdout is gone.
    pub fn line(&self, text: &str) -> io::Result<()> {
        match &self.surface {
            Surface::Terminal { bar, .. } => bar.suspend(|| say(text)),
            Surface::Plain { .. } => say(text),
            Surface::Nowhere => Ok(()),
        }
    }

    /// Something was done: a tick, its name, what came of it.
    ///
    /// # Errors
    /// stdout is gone.
    pub fn done(&mut self, name: &str, text: &str) -> io::Result<()> {
        let line = Line { mark: Mark::Done, step: Some(name.to_owned()), text: text.to_owned() };
        self.settle(&line)
    }

    /// What goes on now, under a spinner.
    pub fn now(&mut self, name: &str, text: &str) {
        match &mut self.surface {
            Surface::Terminal { bar, template } => {
                bar.set_message(text.to_owned());
                bar.set_prefix(name.to_owned());
                become_style(bar, template, SPINNER);
            }
            Surface::Plain { told_at } => *told_at = None,
            Surface::Nowhere => {}
        }
    }

    /// How far the bytes of `name` are, under a bar.
    ///
    /// # Errors
    /// stdout is gone.
    pub fn progress(&mut self, name: &str, progress: &Progress) -> io::Result<()> {
        let text = hydration_text(progress);
        match &mut self.surface {
            Surface::Terminal { bar, template } => {
                bar.set_prefix(name.to_owned());
                bar.set_length(progress.bytes_total);
                bar.set_position(progress.bytes_done.min(progress.bytes_total));
                become_style(bar, template, BAR);
                bar.set_message(text);
                Ok(())
            }
            Surface::Plain { told_at } => {
                // What is over within the first second is told when it is done.
                if told_at.get_or_insert_with(Instant::now).elapsed() < PLAIN_PROGRESS_EVERY {
                    return Ok(());
                }
                *told_at = Some(Instant::now());
                say(format_args!("  .. {name:STEP_WIDTH$}  {text}"))
            }
            Surface::Nowhere => Ok(()),
        }
    }

    /// Lines that are redrawn together, under those that stay; each is narrower than the terminal. Shown on a terminal only.
    pub fn lines(&mut self, lines: &[String]) {
        if let Surface::Terminal { bar, template } = &mut self.surface {
            become_style(bar, template, LINES);
            bar.set_message(lines.join("\n"));
        }
    }

    /// Whether anything is shown at all.
    pub fn is_shown(&self) -> bool {
        !matches!(self.surface, Surface::Nowhere)
    }

    /// Whether lines can be redrawn.
    pub fn is_terminal(&self) -> bool {
        matches!(self.surface, Surface::Terminal { .. })
    }

    /// What a job's journal says next.
    ///
    /// # Errors
    /// stdout is gone.
    pub fn event(&mut self, event: &JobEvent) -> io::Result<()> {
        if let Some(line) = self.story.tell(event) {
            self.settle(&line)?;
        }
        if let Some((step, attempt)) = self.story.current.clone() {
            let text = if attempt > 1 { format!("attempt {attempt}") } else { String::new() };
            self.now(&step, &text);
        }
        Ok(())
    }

    /// A line that stays and ends what was shown under it.
    fn settle(&mut self, line: &Line) -> io::Result<()> {
        if let Surface::Terminal { bar, template } = &mut self.surface {
            become_style(bar, template, BLANK);
        }
        self.line(&render(line, self.paint))
    }

    /// The step of the job that runs now.
    pub fn current_step(&self) -> Option<&str> {
        self.story.current.as_ref().map(|(step, _)| step.as_str())
    }

    /// Takes the line that changes away.
    pub fn clear(&self) {
        if let Surface::Terminal { bar, .. } = &self.surface {
            bar.finish_and_clear();
        }
    }
}

/// Changes how the bar looks only if it has to: every change draws it anew.
fn become_style(bar: &ProgressBar, template: &mut &'static str, wanted: &'static str) {
    if *template != wanted {
        *template = wanted;
        bar.set_style(style(wanted));
    }
}

fn style(template: &'static str) -> ProgressStyle {
    let style = ProgressStyle::with_template(template).expect("the templates are constants that parse");
    style.progress_chars("=> ")
}

fn render(line: &Line, paint: Paint) -> String {
    let (mark, text) = match line.mark {
        Mark::Done => (paint.good("✓"), paint.faint(&line.text)),
        Mark::Wrong => (paint.bad("✗"), line.text.clone()),
        Mark::Undone => (paint.strong("↶"), paint.faint(&line.text)),
        Mark::Note => (paint.strong("·"), line.text.clone()),
    };
    match &line.step {
        Some(step) => format!("  {mark} {step:STEP_WIDTH$}  {text}"),
        None => format!("  {mark} {text}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_line_has_mark_name_and_time() {
        let line = Line { mark: Mark::Done, step: Some("Seal".into()), text: "3.0 ms".into() };
        assert_eq!(render(&line, Paint::none()), "  ✓ Seal       3.0 ms");
        let line = Line { mark: Mark::Note, step: None, text: "asked to cancel".into() };
        assert_eq!(render(&line, Paint::none()), "  · asked to cancel");
    }
}
