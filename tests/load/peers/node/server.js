// Socket.IO on Node at its best: Node 24, websockets only, no compression, no recovery. With DATABASE it appends to SQLite before it broadcasts: one transaction for all
// that came in one turn of the event loop, synced before anybody is told.
const { Server } = require("socket.io");
const { createServer } = require("node:http");

const topics = new Map();
const topicOf = (id) => {
  if (!topics.has(id)) topics.set(id, { seq: 0 });
  return topics.get(id);
};

const http = createServer();
const io = new Server(http, {
  transports: ["websocket"],
  perMessageDeflate: false,
  httpCompression: false,
  serveClient: false,
});

const tell = (data) => io.to(`t${data.topic_id}`).emit("message_events", { event_type: "sent", data });

const durably = (file) => {
  const { DatabaseSync } = require("node:sqlite");
  const db = new DatabaseSync(file);
  db.exec("PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL");
  db.exec("CREATE TABLE log (topic INTEGER, seq INTEGER, owner INTEGER, stamp TEXT, body TEXT, sent_at INTEGER, PRIMARY KEY (topic, seq)) WITHOUT ROWID");
  db.exec("CREATE UNIQUE INDEX stamps ON log (topic, owner, stamp)");
  const insert = db.prepare("INSERT INTO log VALUES (?, ?, ?, ?, ?, ?)");
  let waiting = [];
  const append = (batch) => {
    db.exec("BEGIN");
    for (const d of batch) insert.run(d.topic_id, d.seq, d.owner.id, d.stamp_id, d.body, d.sent_at);
    db.exec("COMMIT");
  };
  return (data) => {
    waiting.push(data);
    if (waiting.length > 1) return;
    setImmediate(() => {
      const batch = waiting;
      waiting = [];
      append(batch);
      for (const data of batch) tell(data);
    });
  };
};
const take = process.env.DATABASE ? durably(process.env.DATABASE) : tell;

io.on("connection", (socket) => {
  socket.on("signin_request", ({ token }) => {
    socket.join(token.split(",").map((topic) => `t${topic}`));
    socket.emit("signin_response", { status: "ok" });
  });
  socket.on("typing_event", (typing) => socket.to(`t${typing.topic_id}`).emit("typing_event", typing));
  socket.on("message_events", ({ topic_id, stamp_id, body }) => {
    const seq = ++topicOf(topic_id).seq;
    take({
      id: 1_000_000 + seq,
      stamp_id,
      topic_id,
      owner: { id: 15, username: "user15" },
      reply_to: null,
      body,
      attrs: null,
      sent_at: Date.now(),
      has_media: false,
      seq,
    });
  });
});

http.listen(Number(process.env.PORT), "127.0.0.1", 4096);
