"""The tables of spool.db behind questions for later and opinions. They came after the first agents that use the file.

A site may go back to such an agent, and come up again: so the version of the file stays the same, the tables are added
where they are missing, and what must hold whichever agent writes is a trigger.

- A question or an opinion is of no use without its prediction, unless the centre has that one.
- Whoever is to be forgotten is forgotten here, too.
- An opinion goes when the centre has its segment, and waits again when that is lost or was never made.
"""

STATEMENTS = (
    "CREATE TABLE IF NOT EXISTS questions (row INTEGER PRIMARY KEY AUTOINCREMENT, prediction_id TEXT NOT NULL UNIQUE,"
    " task TEXT NOT NULL, why TEXT NOT NULL, consent INTEGER NOT NULL, asked INTEGER NOT NULL DEFAULT 0,"
    " kept_at REAL NOT NULL, size INTEGER NOT NULL, record BLOB NOT NULL) STRICT",
    "CREATE INDEX IF NOT EXISTS questions_turn ON questions (why, row)",
    "CREATE INDEX IF NOT EXISTS questions_size ON questions (why, size)",
    "CREATE TABLE IF NOT EXISTS opinions (row INTEGER PRIMARY KEY AUTOINCREMENT, prediction_id TEXT NOT NULL UNIQUE,"
    " consent INTEGER NOT NULL, size INTEGER NOT NULL, segment INTEGER, record BLOB NOT NULL) STRICT",
    "CREATE INDEX IF NOT EXISTS opinions_segment ON opinions (segment)",
    "CREATE INDEX IF NOT EXISTS opinions_size ON opinions (size)",
    "CREATE TRIGGER IF NOT EXISTS opinions_need_their_prediction AFTER DELETE ON predictions"
    " WHEN coalesce(old.segment, 0) = 0 BEGIN"
    " DELETE FROM questions WHERE prediction_id = old.prediction_id;"
    " DELETE FROM opinions WHERE prediction_id = old.prediction_id AND segment IS NULL; END",
    "CREATE TRIGGER IF NOT EXISTS opinions_are_forgotten AFTER INSERT ON tombstones BEGIN"
    " DELETE FROM questions WHERE prediction_id = new.prediction_id;"
    " DELETE FROM opinions WHERE prediction_id = new.prediction_id; END",
    "CREATE TRIGGER IF NOT EXISTS opinions_were_received AFTER UPDATE OF state ON segments"
    " WHEN new.state = 'received' BEGIN DELETE FROM opinions WHERE segment = new.sequence; END",
    "CREATE TRIGGER IF NOT EXISTS opinions_wait_again AFTER UPDATE OF state ON segments"
    " WHEN new.state = 'lost' BEGIN UPDATE opinions SET segment = NULL WHERE segment = new.sequence; END",
    "CREATE TRIGGER IF NOT EXISTS opinions_were_not_sealed AFTER DELETE ON segments BEGIN"
    " UPDATE opinions SET segment = NULL WHERE segment = old.sequence; END",
)
