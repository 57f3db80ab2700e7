// Ask about a video, see what the model saw, jump to the seconds of the answer.
import { bars, clock, paint } from "/chart.js";

export const $ = (id) => document.getElementById(id);
const video = $("video"), overlay = $("overlay");
let about = null; // the model's own fields
let local = null; // { file, id }: the upload that the chosen file became
let stop = null; // AbortController of the work
let shown = null; // { memory, startS, button }: whose patches lie over the frame
let rowAt = -1; // of the patches over the frame

export const element = (tag, text = "", more = {}) => Object.assign(document.createElement(tag), { textContent: text }, more);
const number = (id) => ($(id).value === "" ? undefined : Number($(id).value));

export async function call(path, options = {}) {
  const key = $("key").value, headers = { ...options.headers, ...(key && { authorization: `Bearer ${key}` }) };
  const response = await fetch(path, { ...options, headers });
  if (response.ok) return response;
  const body = await response.json().catch(() => null);
  throw new Error(body?.error?.message || `the server answers ${response.status}`);
}

function fail(error) {
  if (error.name !== "AbortError") $("error").textContent = error.message;
}

// --- files

async function listFiles() {
  const { data } = await (await call("/v1/files")).json(), chosen = $("uploads").value;
  $("uploads").replaceChildren(new Option("choose", ""), ...data.map((file) => new Option(file.filename, file.id)));
  if (data.some((file) => file.id === chosen)) $("uploads").value = chosen;
  $("uploads-field").hidden = !data.length;
  $("delete").disabled = !$("uploads").value;
}

function upload(file, signal) { // fetch tells nothing of an upload's progress
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest(), form = new FormData();
    form.append("purpose", "user_data");
    form.append("file", file);
    request.open("POST", "/v1/files");
    if ($("key").value) request.setRequestHeader("authorization", `Bearer ${$("key").value}`);
    request.upload.onprogress = (event) => say(`Sending ${file.name}`, event.loaded, event.total);
    request.onerror = () => reject(new Error("the server can't be reached"));
    request.onload = () => {
      let body = {};
      try { body = JSON.parse(request.responseText); } catch { /* no JSON: a status alone */ }
      if (request.status === 200) resolve(body.id);
      else reject(new Error(body.error?.message || `the server answers ${request.status}`));
    };
    signal.addEventListener("abort", () => { request.abort(); reject(new DOMException("stopped", "AbortError")); });
    request.send(form);
  });
}

function play(blob) {
  if (video.src) URL.revokeObjectURL(video.src);
  if (blob) video.src = URL.createObjectURL(blob);
  else video.removeAttribute("src");
  $("player").hidden = !blob;
  show(null);
}

async function source(signal) {
  const file = $("file").files[0];
  if (file) {
    if (local?.file !== file) {
      const id = await upload(file, signal);
      local = { file, id };
      await listFiles();
    }
    return local.id;
  }
  const id = $("uploads").value || $("url").value.trim();
  if (!id) throw new Error("Choose a video or audio first.");
  return id;
}

// --- a question

function say(text, part = 0, whole = 0) {
  $("status").textContent = text;
  $("progress").hidden = !whole;
  if (whole) Object.assign($("progress"), { max: whole, value: Math.min(part, whole) });
}

function request(url, budget) {
  const own = {
    budget, start_s: number("start"), end_s: number("end"), rate_fps: number("rate"), thumbnails: number("thumbnails"),
    patches: true, progress: true,
  };
  const content = [{ type: "text", text: $("question").value }, { type: "video_url", video_url: { url } }];
  return { model: about.id, stream: true, messages: [{ role: "user", content }], longcompress: own };
}

// The chunks of a stream of server-sent events.
async function* chunks(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const parts = (rest + value).split("\n\n");
    rest = parts.pop();
    for (const part of parts) if (part.startsWith("data: ") && part !== "data: [DONE]") yield JSON.parse(part.slice(6));
  }
}

async function ask(url, budget, signal) {
  const article = $("result").content.firstElementChild.cloneNode(true), answer = article.querySelector(".answer");
  article.querySelector("h2").textContent = `Budget ${budget}`;
  article.setAttribute("aria-label", `Answer with budget ${budget}`);
  $("results").append(article);
  const headers = { "content-type": "application/json" };
  const body = JSON.stringify(request(url, budget));
  let own = null;
  for await (const chunk of chunks(await call("/v1/chat/completions", { method: "POST", headers, body, signal }))) {
    if (chunk.error) throw new Error(chunk.error.message);
    const progress = chunk.longcompress?.progress;
    if (progress) {
      const length = progress.duration_s ? ` of ${clock(progress.duration_s)}` : "";
      say(`Budget ${budget}: read ${clock(progress.read_s)}${length}`, progress.read_s, progress.duration_s || 0);
    } else if (chunk.longcompress) own = chunk.longcompress;
    answer.textContent += chunk.choices[0]?.delta?.content || "";
  }
  if (!own) throw new Error("the answer ended before it was whole; ask again");
  const memory = await (await call(`/v1/longcompress/memories/${own.memory_id}`, { signal })).json();
  fill(article, own, memory);
}

// --- an answer

function seekButton(text, second, label) {
  const button = element("button", text, { type: "button" });
  if (label) button.setAttribute("aria-label", label);
  button.addEventListener("click", () => { video.currentTime = second; video.scrollIntoView({ block: "nearest" }); });
  return button;
}

// A text, in which the seconds of its events can be clicked; `button` makes the buttons.
export function linked(text, events, button) {
  // an answer may name the last second of an event, or the second behind it
  const seconds = new Set(events.flatMap(({ start_s, end_s }) => [start_s, end_s - 1, end_s]));
  return text.split(/(\d+(?:\.\d+)?)/).map((part, at) =>
    at % 2 && seconds.has(Number(part)) ? button(part, Number(part), `Go to second ${part}`) : part);
}

function fill(article, own, memory) {
  const startS = own.part_s[0], one = (name) => article.querySelector(name), answer = one(".answer");
  answer.replaceChildren(...linked(answer.textContent, own.events, (part, second, label) => seekButton(part, startS + second, label)));
  article.dataset.startS = startS;
  article.dataset.durationS = memory.duration_s;
  for (const { start_s, end_s, text } of own.events) {
    const span = `${clock(start_s)} to ${clock(end_s)}`, bar = seekButton("", startS + start_s, `Event, ${span}`);
    bar.title = span;
    bar.style.left = `${(100 * start_s) / memory.duration_s}%`;
    bar.style.width = `${(100 * (end_s - start_s)) / memory.duration_s}%`;
    one(".timeline").append(bar);
    const item = element("li");
    item.append(seekButton(span, startS + start_s), ` ${text || ""}`);
    one(".events").append(item);
  }
  if (!own.events.length) one(".events").append(element("li", "The answer names no time."));
  one(".chart").append(bars(memory, about.longcompress.segment_s));
  const streams = Object.entries(own.streams).map(([name, num]) => `${num} ${name}`).join(", ");
  const origin = own.memory === "kept" ? "read before" : "read now";
  one(".counts").textContent = `${own.tokens} tokens (${streams}) for ${clock(memory.duration_s)}, ${origin}`;
  for (const { time_s, url } of memory.thumbnails) {
    const button = seekButton("", startS + time_s, `Frame at ${clock(time_s)}`);
    button.append(element("img", "", { src: url, alt: "" }), element("span", clock(time_s)));
    const item = element("li");
    item.append(button);
    one(".thumbnails").append(item);
  }
  if (!memory.thumbnails.length) one(".thumbnails").append(element("li", "None."));
  one(".warnings").append(...own.warnings.map((text) => element("li", text)));
  const button = one(".patches");
  button.disabled = !memory.frames || $("player").hidden;
  button.addEventListener("click", () => show(shown?.button === button ? null : { memory, startS, button }));
}

// --- the player

function show(next) {
  shown?.button.setAttribute("aria-pressed", "false");
  next?.button.setAttribute("aria-pressed", "true");
  shown = next;
  rowAt = -1;
  overlay.getContext("2d").clearRect(0, 0, overlay.width, overlay.height);
  $("patches-text").textContent = "";
  follow();
}

async function follow() {
  for (const article of document.querySelectorAll("article[data-duration-s]")) {
    const part = (video.currentTime - article.dataset.startS) / article.dataset.durationS;
    article.querySelector(".cursor").style.left = `${100 * Math.min(1, Math.max(0, part))}%`;
  }
  if (!shown || !video.videoWidth) return;
  const now = shown, { memory } = now, second = Math.max(0, video.currentTime - now.startS);
  const row = Math.min(memory.frames - 1, Math.floor(second / memory.step_s + 1e-6));
  if (row === rowAt) return;
  rowAt = row;
  try {
    const { tokens } = await (await call(`/v1/longcompress/memories/${memory.id}/patches/${row}`)).json();
    if (shown !== now || rowAt !== row) return; // the video went on
    const num = paint(overlay, video, tokens, memory.grid, memory.fit);
    $("patches-text").textContent = `Budget ${memory.budget}: ${num} tokens for ${tokens.length} patches at ${clock(row * memory.step_s)}`;
  } catch (error) { fail(error); }
}

async function run() {
  const budgets = [number("budget"), ...($("compare").checked ? [number("second")] : [])];
  stop = new AbortController();
  $("error").textContent = "";
  $("results").replaceChildren();
  show(null);
  $("send").disabled = !($("stop").disabled = false);
  try {
    if (!about) await start();
    const url = await source(stop.signal);
    for (const budget of budgets) {
      say(`Budget ${budget}: reading`);
      await ask(url, budget, stop.signal);
    }
    say("Done");
  } catch (error) {
    say(error.name === "AbortError" ? "Stopped" : "");
    fail(error);
  } finally {
    $("send").disabled = !($("stop").disabled = true);
    follow();
  }
}

async function start() {
  about = (await (await call("/v1/models")).json()).data[0];
  const own = about.longcompress;
  $("model").textContent = `${about.id}: ${own.media.join(" and ")}`;
  for (const id of ["budget", "second"]) $(id).max = own.max_budget;
  $("budget").value ||= own.budget;
  $("second").value ||= Math.max(1, Math.round(own.budget / 4));
  $("url-field").hidden = !own.protocols.length;
  await listFiles();
}

$("ask").addEventListener("submit", (event) => { event.preventDefault(); run(); });
$("stop").addEventListener("click", () => stop?.abort());
$("compare").addEventListener("change", () => { $("second").disabled = !$("compare").checked; $("second").required = $("compare").checked; });
$("key").addEventListener("change", () => { $("error").textContent = ""; start().catch(fail); });
$("file").addEventListener("change", () => { $("uploads").value = ""; $("delete").disabled = true; play($("file").files[0]); });
$("uploads").addEventListener("change", async () => {
  const id = $("uploads").value;
  $("file").value = "";
  $("delete").disabled = !id;
  play(null);
  try { if (id) play(await (await call(`/v1/files/${id}/content`)).blob()); } catch (error) { fail(error); }
});
$("delete").addEventListener("click", async () => {
  try {
    await call(`/v1/files/${$("uploads").value}`, { method: "DELETE" });
    if (local?.id === $("uploads").value) local = null;
    play(null);
    await listFiles();
  } catch (error) { fail(error); }
});
for (const name of ["timeupdate", "seeked", "loadeddata"]) video.addEventListener(name, follow);
new ResizeObserver(() => { rowAt = -1; follow(); }).observe(video);
start().catch(fail);
