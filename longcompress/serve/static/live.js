// A camera, or a test pattern, seen by the model as it comes; what it says, and when.
import { clock } from "/chart.js";
import { $, call, element, linked } from "/page.js";

const SVG = "http://www.w3.org/2000/svg";
const NAMED = "named:", LONGEST = 480, KEPT = 600, POINTS = 120, RETRY_MS = 500, JITTER_S = 0.5, PATIENCE_S = 2;
const now = $("live-now"), camera = element("video", "", { muted: true, playsInline: true });
let live = null; // the session at work
const frames = []; // { second, blob } of the last frames

function say(text) { $("live-status").textContent = text; }
function fail(text) { $("live-error").textContent = text; }

class Session {
  constructor() {
    this.requests = new Map(); // item -> { text, scores }
    this.replies = new Map(); // response -> its paragraph
    this.controls = []; // { number, text } of texts that were sent, until the server has them
    this.numSent = this.last = this.dropped = this.num = this.lag = 0;
    this.id = this.audio = this.stream = this.timer = this.own = this.named = null; // named: a source of the server's
    this.isOver = this.isReady = false; // ready: the server has said what it has
  }

  async start() {
    const source = $("live-source").value;
    if (source.startsWith(NAMED)) {
      this.named = source.slice(NAMED.length);
      this.seenS = 0;
    } else if (source !== "test") {
      this.stream = await navigator.mediaDevices.getUserMedia({ video: true, audio: source === "both" });
      camera.srcObject = this.stream;
      await camera.play();
    }
    const value = (id) => $(id).value, number = (id) => (value(id) === "" ? undefined : Number(value(id)));
    const trigger = number("live-threshold") === undefined ? undefined : { threshold: number("live-threshold") };
    this.settings = {
      media: source === "both" || this.named ? undefined : ["video"], rate_fps: number("live-rate"), budget: number("live-budget"),
      patience_s: PATIENCE_S, scores: $("live-scores").checked, trigger, poll: value("live-poll") || undefined,
      // an empty yes is all that isn't no
      poll_yes: value("live-yes") || (value("live-no") ? "" : undefined), poll_no: value("live-no") || undefined,
    };
    this.connect();
  }

  connect() {
    const key = $("key").value, protocols = ["realtime", ...(key ? [`openai-insecure-api-key.${key}`] : [])];
    const query = this.id ? `?session=${this.id}&after=event_${this.last}` : "";
    this.socket = new WebSocket(`${location.origin.replace("http", "ws")}/v1/realtime${query}`, protocols);
    this.socket.onmessage = ({ data }) => this.take(JSON.parse(data));
    this.isReady = false;
    this.socket.onclose = (event) => this.closed(event);
  }

  closed({ code, reason }) {
    const isCut = this.id && !this.isOver && (code === 1006 || code === 1011 || code === 1012);
    if (isCut && performance.now() - (this.cutMs ??= performance.now()) < 1000 * this.own.keep_s) {
      say("The connection is cut, trying again");
      setTimeout(() => this.isOver || this.connect(), RETRY_MS);
      return;
    }
    if (code !== 1000) {
      fail(reason || "the server can't be reached");
      // a browser doesn't say why a WebSocket was refused: an ordinary request does
      if (!this.id) call("/v1/models").catch((error) => fail(error.message));
    }
    this.end();
  }

  // What has to arrive is sent again after a cut; frames and audio are of their moment.
  control(type, fields) {
    const text = JSON.stringify({ type, ...fields });
    this.controls.push({ number: this.numSent, text });
    this.send(text);
  }

  send(data) {
    if (!this.isReady || this.socket.readyState !== WebSocket.OPEN) return;
    this.socket.send(data);
    this.numSent += 1;
  }

  media(kind, second, bytes) {
    if (this.socket.bufferedAmount > 1 << 20) return;
    const data = new Uint8Array(16 + bytes.byteLength), view = new DataView(data.buffer);
    view.setUint8(0, kind);
    view.setFloat64(8, second, true);
    data.set(new Uint8Array(bytes), 16);
    this.send(data);
  }

  take(event) {
    const number = Number(event.event_id.slice("event_".length));
    if (number) this.last = number;
    const own = event.response?.longcompress || event.longcompress || {};
    switch (event.type) {
      case "session.created":
        this.id = event.session.id;
        this.isReady = true;
        this.own = event.session.longcompress;
        this.control("session.update", { session: { longcompress: this.settings } });
        break;
      case "session.updated":
        this.own = event.session.longcompress;
        if (this.timer || this.isOver) break;
        if (this.named) this.control("longcompress.source", { source: this.named });
        else this.record(event.session.audio.input.format.rate).catch((error) => { fail(error.message); this.stop(); });
        break;
      case "longcompress.source":
        this.begin(() => say(this.text()), 1000);
        break;
      case "longcompress.frame":
        this.show(event.time_s, event.image_url).catch((error) => fail(error.message));
        break;
      case "longcompress.resumed": {
        this.cutMs = undefined;
        this.isReady = true;
        const missing = this.controls.filter((item) => item.number >= event.received);
        this.numSent = event.received;
        this.controls = [];
        for (const { text } of missing) { this.controls.push({ number: this.numSent, text }); this.send(text); }
        break;
      }
      case "conversation.item.added":
        if (own.request) this.addRequest(event.item);
        break;
      case "conversation.item.deleted":
        this.requests.delete(event.item_id);
        document.getElementById(event.item_id)?.remove();
        break;
      case "longcompress.scores":
        this.addScore(event);
        break;
      case "longcompress.dropped":
        if (event.what === "video" || event.what === "audio") this.dropped += event.num || 1;
        break;
      case "response.created":
        this.addReply(event.response.id, own);
        break;
      case "response.output_text.delta":
        this.replies.get(event.response_id).append(event.delta);
        break;
      case "response.done":
        this.endReply(event.response, own);
        break;
      case "session.closed":
        this.summary = event.longcompress;
        break;
      case "error":
        fail(event.error.message);
        if (!this.timer && !this.isOver) this.stop();
    }
    if (this.timer) say(this.text());
  }

  text() {
    const dropped = this.dropped ? `, ${this.dropped} dropped` : "";
    return `Live: ${clock(this.second())}, ${this.num} frames${dropped}`;
  }

  // --- what is sent

  second() { return this.named ? this.seenS : (performance.now() - this.startMs) / 1000; }

  begin(call, everyMs) {
    this.startMs = performance.now();
    this.timer = setInterval(call, everyMs);
    for (const button of document.querySelectorAll("#live form button")) button.disabled = false;
    call();
  }

  // A frame that the server has read.
  async show(second, url) {
    const bytes = Uint8Array.from(atob(url.slice(url.indexOf(",") + 1)), (sign) => sign.charCodeAt(0));
    const blob = new Blob([bytes], { type: "image/jpeg" });
    this.seenS = second;
    this.num += 1;
    keep(second, blob);
    await draw(now, blob);
  }

  async record(rateHz) {
    this.begin(() => this.frame(), 1000 / this.own.rate_fps);
    if (!this.stream?.getAudioTracks().length) return;
    this.audio = new AudioContext({ sampleRate: rateHz });
    await this.audio.audioWorklet.addModule("/live-audio.js");
    const samples = new AudioWorkletNode(this.audio, "samples", { numberOfOutputs: 0, channelCount: 1, channelCountMode: "explicit" });
    let nextS = null;
    samples.port.onmessage = ({ data }) => {
      const lengthS = data.length / rateHz, at = this.second() - lengthS;
      if (nextS === null || Math.abs(at - nextS) > JITTER_S) nextS = Math.max(0, at);
      this.media(2, nextS, Int16Array.from(data, (x) => Math.max(-1, Math.min(1, x)) * 32767).buffer);
      nextS += lengthS;
    };
    this.audio.createMediaStreamSource(this.stream).connect(samples);
    await this.audio.resume();
  }

  frame() {
    const second = this.second(), wide = camera.videoWidth || 320, high = camera.videoHeight || 180;
    if (this.stream && !camera.videoWidth) return;
    const scale = Math.min(1, LONGEST / Math.max(wide, high));
    now.width = Math.round(wide * scale);
    now.height = Math.round(high * scale);
    const context = now.getContext("2d");
    if (this.stream) context.drawImage(camera, 0, 0, now.width, now.height);
    else pattern(context, second);
    now.toBlob(async (blob) => {
      keep(second, blob);
      this.media(1, second, await blob.arrayBuffer());
      this.num += 1;
      say(this.text());
    }, "image/jpeg", 0.85);
  }

  // --- what comes

  addRequest({ id, content }) {
    const text = content[0].text, item = element("li", "", { id }), remove = element("button", "Remove", { type: "button" });
    remove.setAttribute("aria-label", `Remove request: ${text}`);
    remove.addEventListener("click", () => { this.control("conversation.item.delete", { item_id: id }); $("live-request-text").focus(); });
    item.append(element("span", `${text} `), element("span", "", { className: "dim score" }), " ", remove);
    $("live-requests").append(item);
    this.requests.set(id, { text, scores: [] });
  }

  addScore({ item_id, time_s, scores }) {
    const request = this.requests.get(item_id), score = Object.values(scores)[0];
    if (!request || score === null) return;
    request.scores.push([time_s, score]);
    if (request.scores.length > POINTS) request.scores.shift();
    document.getElementById(item_id).querySelector(".score").textContent = `score ${score.toFixed(2)}`;
    const rows = [...this.requests.values()].filter((row) => row.scores.length), svg = document.createElementNS(SVG, "svg");
    const first = Math.min(...rows.map((row) => row.scores[0][0])), width = Math.max(1, time_s - first);
    for (const [name, value] of Object.entries({ viewBox: `0 -0.05 ${width} 1.1`, preserveAspectRatio: "none", role: "img" })) svg.setAttribute(name, value);
    svg.setAttribute("aria-label", rows.map((row) => `Score of ${row.text}: ${row.scores.at(-1)[1].toFixed(2)}`).join("; "));
    for (const row of rows) {
      const line = document.createElementNS(SVG, "polyline");
      line.setAttribute("points", row.scores.map(([second, value]) => `${second - first},${1 - value}`).join(" "));
      svg.append(line);
    }
    $("live-chart").replaceChildren(svg);
  }

  addReply(id, { time_s, item_id }) {
    const item = element("li"), text = element("span");
    item.append(secondButton(clock(time_s), time_s, `Frame at ${clock(time_s)}`));
    item.append(` ${this.requests.get(item_id)?.text || this.question || ""} `, text);
    $("live-replies").prepend(item);
    this.replies.set(id, text);
  }

  endReply({ id, status, output }, own) {
    const text = this.replies.get(id);
    this.replies.delete(id);
    if (status === "cancelled") text.append(" (stopped)");
    else text.replaceChildren(...linked(output[0].content[0].text, own.events, secondButton), own.is_repeat ? " (again)" : "");
  }

  // --- the end

  stop() {
    this.isOver = true;
    if (this.socket?.readyState === WebSocket.OPEN) this.control("session.close", {});
    else this.end();
    this.still();
  }

  still() {
    clearInterval(this.timer);
    this.timer = null;
    this.stream?.getTracks().forEach((track) => track.stop());
    this.audio?.close();
    this.audio = null;
    camera.srcObject = null;
  }

  end() {
    this.isOver = true;
    this.still();
    const steps = this.summary?.stats.steps;
    say(steps === undefined ? "Stopped" : `Stopped: ${steps} steps read, ${this.summary.stats.replies} replies, ${this.dropped} dropped`);
    for (const button of document.querySelectorAll("#live form button")) button.disabled = true;
    for (const button of document.querySelectorAll("#live-requests button")) button.remove();
    $("live-start").disabled = !($("live-stop").disabled = true);
    live = null;
  }
}

// A ball that crosses the frame, and its second.
function pattern(context, second) {
  const { width, height } = context.canvas;
  context.fillStyle = "#202428";
  context.fillRect(0, 0, width, height);
  context.fillStyle = "#e03030";
  context.beginPath();
  context.arc(((second / 8) % 1) * width, height / 2, height / 5, 0, 7);
  context.fill();
  context.fillStyle = "#fff";
  context.font = "20px sans-serif";
  context.fillText(clock(second), 8, 24);
}

function secondButton(text, second, label) {
  const button = element("button", text, { type: "button" });
  button.setAttribute("aria-label", label);
  button.addEventListener("click", () => show(second));
  return button;
}

function keep(second, blob) {
  frames.push({ second, blob });
  if (frames.length > KEPT) frames.shift();
}

async function draw(canvas, blob) {
  const bitmap = await createImageBitmap(blob);
  canvas.width = bitmap.width;
  canvas.height = bitmap.height;
  canvas.getContext("2d").drawImage(bitmap, 0, 0);
}

// The frame that was on screen at a second.
async function show(second) {
  const shown = frames.findLast((frame) => frame.second <= second + 1e-3) || frames[0];
  if (!shown) return;
  await draw($("live-then"), shown.blob);
  const text = `Frame at ${clock(shown.second)}`;
  $("live-then").setAttribute("aria-label", text);
  $("live-second").textContent = frames[0].second > second + 1 ? `${text}, the oldest that is held` : text;
}

// What the server reads itself is chosen by its name.
async function list() {
  const about = (await (await call("/v1/models")).json()).data[0].longcompress, select = $("live-source");
  for (const option of select.querySelectorAll(`[value^="${NAMED}"]`)) option.remove();
  for (const name of about.live_sources) select.append(element("option", name, { value: NAMED + name }));
}

function item(text, reply) {
  const content = [{ type: "input_text", text }];
  live.control("conversation.item.create", { item: { type: "message", role: "user", content, longcompress: { reply } } });
}

$("live-open").addEventListener("click", () => {
  const isOpen = ($("live").hidden = !$("live").hidden);
  $("live-open").setAttribute("aria-expanded", String(!isOpen));
  if (isOpen) live?.stop();
  else list().catch((error) => fail(error.message));
});
$("live-start").addEventListener("click", async () => {
  fail("");
  for (const id of ["live-requests", "live-replies", "live-chart"]) $(id).replaceChildren();
  frames.length = 0;
  $("live-start").disabled = !($("live-stop").disabled = false);
  const session = (live = new Session());
  say("Starting");
  try {
    await session.start();
  } catch (error) { // no camera, or it may not be used
    fail(error.message);
    session.end();
  }
});
$("live-stop").addEventListener("click", () => live?.stop());
$("live-scores").addEventListener("change", () => live?.control("session.update", { session: { longcompress: { scores: $("live-scores").checked } } }));
$("live-request").addEventListener("submit", (event) => {
  event.preventDefault();
  item($("live-request-text").value, "may");
  $("live-request-text").value = "";
});
$("live-ask").addEventListener("submit", (event) => {
  event.preventDefault();
  live.question = $("live-ask-text").value;
  item(live.question, "must");
  live.control("response.create", {});
});
addEventListener("pagehide", () => { if (live) { live.isOver = true; live.socket?.close(1000); } });
