//! Programs of others that use a mount while something happens to it. A story has no file of a mount open itself while the
//! mount's store or worker is away: every program that any story starts would close it on its way, and wait.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

/// Longer than anything that a story waits for.
const PATIENCE: Duration = Duration::from_secs(90);

/// `df` asks nobody.
const DF: Duration = Duration::from_secs(1);

/// Opens the file it is given, then does what it is told, line by line, and says how it went.
const PROGRAM: &str = "
import os, sys
file = os.open(sys.argv[1], os.O_CREAT | os.O_RDWR)
print('done', flush=True)
for line in sys.stdin:
    what, _, text = line.rstrip('\\n').partition(' ')
    try:
        if what == 'write':
            data = text.encode()
            while data:
                data = data[os.write(file, data):]
        elif what == 'read':
            os.pread(file, 1 << 20, 0)
        elif what == 'sync':
            os.fsync(file)
        elif what == 'close':
            os.close(file)
        print('done', flush=True)
    except OSError as error:
        print(error.errno, flush=True)
";

/// A program that has a file open. Dropping it kills it.
pub struct Holder {
    child: Child,
    orders: ChildStdin,
    answers: Receiver<String>,
}

impl Holder {
    /// Opens a file, and makes it if there is none.
    ///
    /// # Panics
    /// When it cannot be opened.
    pub fn open(path: &Path) -> Holder {
        let mut child = Command::new("python3")
            .args(["-c", PROGRAM])
            .arg(path)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("python3 is installed");
        let orders = child.stdin.take().expect("it is piped");
        let lines = BufReader::new(child.stdout.take().expect("it is piped")).lines();
        // A thread, since whoever reads from it cannot be called back.
        let (tell, answers) = channel();
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                if tell.send(line).is_err() {
                    break;
                }
            }
        });
        let holder = Holder {
            child,
            orders,
            answers,
        };
        holder.answer().expect("the file can be opened");
        holder
    }

    /// Writes a text without line breaks, behind what was written before.
    ///
    /// # Errors
    /// The number of the failure.
    pub fn write(&mut self, text: &str) -> Result<(), i32> {
        self.begin(&format!("write {text}"));
        self.answer()
    }

    /// Reads the beginning of the file; what is written next is where it was before.
    ///
    /// # Errors
    /// The number of the failure.
    pub fn read(&mut self) -> Result<(), i32> {
        self.begin("read");
        self.answer()
    }

    /// Begins to write; [`Holder::answer`] says how it went.
    pub fn begin_writing(&mut self, text: &str) {
        self.begin(&format!("write {text}"));
    }

    /// Has the file brought to the store.
    ///
    /// # Errors
    /// The number of the failure.
    pub fn sync(&mut self) -> Result<(), i32> {
        self.begin("sync");
        self.answer()
    }

    /// Closes the file and ends.
    ///
    /// # Errors
    /// The number of the failure.
    pub fn close(mut self) -> Result<(), i32> {
        self.begin("close");
        self.answer()
    }

    /// Begins to have the file brought to the store; [`Holder::answer`] says how it went.
    pub fn begin_syncing(&mut self) {
        self.begin("sync");
    }

    /// Waits for the end of what was begun.
    ///
    /// # Errors
    /// The number of the failure.
    ///
    /// # Panics
    /// When it takes too long.
    pub fn answer(&self) -> Result<(), i32> {
        self.answer_within(PATIENCE).expect("the program answers")
    }

    /// The same; `None` if it has not come by then.
    ///
    /// # Panics
    /// When the program has ended.
    pub fn answer_within(&self, patience: Duration) -> Option<Result<(), i32>> {
        match self.answers.recv_timeout(patience) {
            Ok(line) if line == "done" => Some(Ok(())),
            Ok(line) => Some(Err(line.parse().expect("it says a number"))),
            Err(RecvTimeoutError::Timeout) => None,
            Err(RecvTimeoutError::Disconnected) => panic!("the program has ended"),
        }
    }

    fn begin(&mut self, order: &str) {
        writeln!(self.orders, "{order}").expect("the program reads");
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        let _ = self.child.kill();
        // A failing story's program may be in a mount that nobody serves, and then ends after the story.
        if !std::thread::panicking() {
            let _ = self.child.wait();
        }
    }
}

/// `df` of a folder, which must answer at once. Returns how long it took.
///
/// # Panics
/// When it takes longer, or fails.
pub fn disk_free(path: &Path) -> Duration {
    let began = Instant::now();
    let mut df = Command::new("df")
        .arg(path)
        .stdout(Stdio::null())
        .spawn()
        .expect("df is installed");
    loop {
        let took = began.elapsed();
        if let Some(status) = df.try_wait().expect("it is a child") {
            assert!(status.success(), "df {}: {status}", path.display());
            assert!(took < DF, "df {} takes {took:?}", path.display());
            return took;
        }
        if took > PATIENCE {
            let _ = df.kill();
            panic!("df {} does not end", path.display());
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}
