// What a memory holds, as shapes: tokens per segment as bars, merged patches over the frame.

const SVG = "http://www.w3.org/2000/svg";
const BARS = 48; // at most
export const clock = (seconds) => {
  const tenths = Math.round(seconds * 10), whole = Math.floor(tenths / 10), two = (n) => String(n).padStart(2, "0");
  const hours = Math.floor(whole / 3600), minutes = Math.floor(whole / 60) % 60;
  const rest = two(whole % 60) + (tenths % 10 ? `.${tenths % 10}` : "");
  return hours ? `${hours}:${two(minutes)}:${rest}` : `${minutes}:${rest}`;
};

// Bars of the tokens whose mean time lies in a segment; their texts are the chart's description.
export function bars(memory, segmentS) {
  const width = Math.max(segmentS, memory.duration_s / BARS), num = Math.max(1, Math.ceil(memory.duration_s / width));
  const names = Object.keys(memory.streams);
  const counts = Object.fromEntries(names.map((name) => [name, new Array(num).fill(0)]));
  for (const name of names)
    for (const second of memory.streams[name].time_s) counts[name][Math.min(num - 1, Math.floor(second / width))] += 1;
  const sums = Array.from({ length: num }, (_, k) => names.reduce((sum, name) => sum + counts[name][k], 0));
  const highest = Math.max(1, ...sums), svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("viewBox", `0 0 ${num} ${highest}`);
  svg.setAttribute("preserveAspectRatio", "none");
  svg.setAttribute("role", "img");
  svg.setAttribute("aria-label", `Tokens per ${clock(width)}: ${sums.join(", ")}`);
  for (let k = 0; k < num; k++) {
    let top = highest;
    for (const name of names) {
      const count = counts[name][k], bar = document.createElementNS(SVG, "rect"), title = document.createElementNS(SVG, "title");
      top -= count;
      for (const [key, value] of Object.entries({ x: k + 0.06, y: top, width: 0.88, height: count, class: `bar-${name}` }))
        bar.setAttribute(key, value);
      title.textContent = `${clock(k * width)} to ${clock(Math.min(memory.duration_s, (k + 1) * width))}: ${count} ${name}`;
      bar.append(title);
      svg.append(bar);
    }
  }
  return svg;
}

// Where the grid lies in the player: the frame as it is shown, of which "crop" has the middle square and to which
// "pad" adds bars. { left, top, width, height } in pixels of the page.
export function gridBox(video, fit) {
  const box = { width: video.clientWidth, height: video.clientHeight };
  const scale = Math.min(box.width / video.videoWidth, box.height / video.videoHeight);
  let width = video.videoWidth * scale, height = video.videoHeight * scale;
  if (fit === "crop") width = height = Math.min(width, height);
  if (fit === "pad") width = height = Math.max(width, height);
  return { left: (box.width - width) / 2, top: (box.height - height) / 2, width, height };
}

// Tint and outline the patches of each token in the token's colour. Returns the number of tokens.
export function paint(canvas, video, tokens, [rows, columns], fit) {
  const box = gridBox(video, fit), sharp = window.devicePixelRatio || 1, context = canvas.getContext("2d");
  canvas.width = video.clientWidth * sharp;
  canvas.height = video.clientHeight * sharp;
  canvas.style.width = `${video.clientWidth}px`;
  canvas.style.height = `${video.clientHeight}px`;
  context.scale(sharp, sharp);
  context.translate(box.left, box.top);
  const wide = box.width / columns, high = box.height / rows;
  const at = (y, x) => (y < 0 || x < 0 || y >= rows || x >= columns ? -1 : tokens[y * columns + x]);
  context.lineWidth = rows > 16 ? 1 : 2;
  for (let y = 0; y < rows; y++)
    for (let x = 0; x < columns; x++) {
      const token = at(y, x), hue = (token * 137.508) % 360; // the golden angle: neighbours differ
      context.fillStyle = `hsl(${hue} 85% 60% / 0.22)`;
      context.strokeStyle = `hsl(${hue} 85% 60%)`;
      context.fillRect(x * wide, y * high, wide, high);
      context.beginPath();
      for (const [dy, dx, from, to] of [[-1, 0, [0, 0], [1, 0]], [1, 0, [0, 1], [1, 1]], [0, -1, [0, 0], [0, 1]], [0, 1, [1, 0], [1, 1]]]) {
        if (at(y + dy, x + dx) === token) continue;
        const inset = ([a, b]) => [(x + a) * wide + (a ? -1 : 1), (y + b) * high + (b ? -1 : 1)];
        context.moveTo(...inset(from));
        context.lineTo(...inset(to));
      }
      context.stroke();
    }
  return new Set(tokens).size;
}
