// The live view of one run: status line, loss curve, score curves and samples, moving in place.
//
// What: draws the event stream of a run (core/events.py, thinned by app/story.py) as two SVG charts and a table.
// How: a run that is on is polled at data.api?after=N and its new points are appended; nodes are made once and only
//   their attributes change, so nothing flickers, and a selection or a tooltip survives. A run that is over comes
//   whole in data.events. When a run ends, the trigger "done" tells the page, once.
// What it is not: a chart library. Two kinds of panel, one horizontal axis (steps), one vertical axis.
// No dependencies, no build step. Colours, dashes and markers come from app/charts.py through data.styles, words in the
// visitor's language from app/live.py through data.words.

const SVG = "http://www.w3.org/2000/svg"
const DASH = { solid: "", dash: "8 4", dot: "2 3", dashdot: "8 3 2 3", longdash: "13 4", longdashdot: "13 3 2 3" }
const OVER = ["finished", "failed", "cancelled", "interrupted"]
const PAD = { left: 44, right: 14, top: 10, bottom: 34 }
const HEIGHT = 232
const views = new WeakMap()

/** SVG path of a marker of radius r around (x, y), by plotly's name. */
function marker(kind, x, y, r) {
  const at = (points) => "M" + points.map(([a, b]) => `${(x + a * r).toFixed(1)} ${(y + b * r).toFixed(1)}`).join("L") + "Z"
  switch (kind) {
    case "square": return at([[-0.9, -0.9], [0.9, -0.9], [0.9, 0.9], [-0.9, 0.9]])
    case "diamond": return at([[0, -1.25], [1.25, 0], [0, 1.25], [-1.25, 0]])
    case "triangle-up": return at([[0, -1.2], [1.15, 0.9], [-1.15, 0.9]])
    case "triangle-down": return at([[0, 1.2], [1.15, -0.9], [-1.15, -0.9]])
    case "x": return at([[-1.1, -0.7], [-0.7, -1.1], [0, -0.4], [0.7, -1.1], [1.1, -0.7], [0.4, 0], [1.1, 0.7], [0.7, 1.1], [0, 0.4], [-0.7, 1.1], [-1.1, 0.7], [-0.4, 0]])
    case "cross": return at([[-0.35, -1.2], [0.35, -1.2], [0.35, -0.35], [1.2, -0.35], [1.2, 0.35], [0.35, 0.35], [0.35, 1.2], [-0.35, 1.2], [-0.35, 0.35], [-1.2, 0.35], [-1.2, -0.35], [-0.35, -0.35]])
    case "star": return at(Array.from({ length: 10 }, (_, i) => { const q = i % 2 ? 0.55 : 1.4; const a = (Math.PI * i) / 5; return [q * Math.sin(a), -q * Math.cos(a)] }))
    default: return `M${(x - r).toFixed(1)} ${y.toFixed(1)}a${r} ${r} 0 1 0 ${2 * r} 0a${r} ${r} 0 1 0 ${-2 * r} 0Z`
  }
}

function node(parent, name, attributes = {}, text) {
  const svg = parent.namespaceURI === SVG || name === "svg"
  const made = svg ? document.createElementNS(SVG, name) : document.createElement(name)
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value)
  if (text !== undefined) made.textContent = text
  parent.appendChild(made)
  return made
}

/** Round steps for an axis from 0 to `top` with at most `most` of them. */
function ticks(top, most) {
  const rough = top / most
  const power = 10 ** Math.floor(Math.log10(rough || 1))
  const step = [1, 2, 2.5, 5, 10].map((m) => m * power).find((s) => s >= rough - 1e-12) || 1
  const out = []
  for (let v = 0; v <= top * 1.0001; v += step) out.push(Math.round(v / step) * step)
  return out
}

const percent = (share) => `${Math.round(100 * share)} %`
let decimal = "."  // the visitor's language's
const local = (digits) => digits.replace(".", decimal)
const number = (value) => local(value >= 100 ? value.toFixed(0) : value >= 10 ? value.toFixed(1) : value.toFixed(2))

function duration(seconds) {
  if (seconds < 60) return `${Math.max(1, Math.round(seconds))} s`
  const minutes = Math.floor(Math.round(seconds) / 60)
  return minutes < 60 ? `${minutes} min ${Math.round(seconds) % 60} s` : `${Math.floor(minutes / 60)} h ${minutes % 60} min`
}

/** A text with its blanks filled: fill("step {step}", { step: 3 }). */
const fill = (text, blanks) => text.replace(/\{(\w+)\}/g, (whole, name) => (name in blanks ? blanks[name] : whole))

/** Bytes for a person, as core/units.py writes them. */
function mebibytes(bytes) {
  const size = bytes / 2 ** 20
  return local(size >= 1024 ? `${(size / 1024).toFixed(1)} GiB` : `${size.toFixed(size >= 100 ? 0 : 1)} MiB`)
}

/** One chart: its frame, its series, its legend. `unit` prints a value; `words` are data.words. */
class Panel {
  constructor(parent, title, unit, yTitle, words) {
    this.unit = unit
    this.words = words
    this.figure = node(parent, "figure")
    const head = node(this.figure, "figcaption")
    node(node(head, "span", { class: "title" }, title), "small", {}, `, ${yTitle}`)
    this.readout = node(head, "span", { class: "readout" })
    this.svg = node(this.figure, "svg", { role: "img", height: HEIGHT })
    this.grid = node(this.svg, "g", { class: "grid" })
    this.lines = node(this.svg, "g")
    this.rule = node(this.svg, "line", { class: "rule", visibility: "hidden" })
    this.legend = node(this.figure, "ul", { class: "legend" })
    this.series = new Map()
    this.frame = ""
    this.svg.addEventListener("pointermove", (e) => this.point(e))
    this.svg.addEventListener("pointerleave", () => this.unpoint())
  }

  /** points: [[step, value], …]; style: {colour, dash, marker}; markers: draw one at every point. */
  set(name, points, style, { width = 2, markers = false, label = name } = {}) {
    let s = this.series.get(name)
    if (!s) {
      const line = node(this.lines, "path", { fill: "none", stroke: style.colour, "stroke-width": width, "stroke-dasharray": DASH[style.dash] || "", "stroke-linejoin": "round" })
      const marks = node(this.lines, "path", { fill: style.colour, stroke: "var(--st-background-color)", "stroke-width": 1 })
      const item = node(this.legend, "li")
      const key = node(item, "svg", { width: 30, height: 12, "aria-hidden": "true" })
      node(key, "path", { d: "M1 6H29", fill: "none", stroke: style.colour, "stroke-width": width, "stroke-dasharray": DASH[style.dash] || "" })
      if (markers) node(key, "path", { d: marker(style.marker, 15, 6, 4), fill: style.colour })
      node(item, "span", {}, label)
      s = { line, marks, item, value: node(item, "b"), style, markers, points: [] }
      this.series.set(name, s)
    }
    s.points = points.filter(([, v]) => v !== null && v !== undefined)
  }

  draw(width, steps, top) {
    this.width = width
    this.steps = Math.max(1, steps)
    this.top = top
    const w = width - PAD.left - PAD.right
    const h = HEIGHT - PAD.top - PAD.bottom
    this.x = (step) => PAD.left + (w * step) / this.steps
    this.y = (value) => PAD.top + h * (1 - Math.min(1.02, value / top))
    const empty = [...this.series.values()].every((s) => s.points.length === 0)
    this.legend.hidden = empty
    const frame = `${width}/${this.steps}/${top}/${empty}`
    if (frame !== this.frame) {
      this.frame = frame
      this.svg.setAttribute("width", width)
      this.svg.setAttribute("viewBox", `0 0 ${width} ${HEIGHT}`)
      this.grid.replaceChildren()
      for (const v of ticks(top, 5)) {
        node(this.grid, "line", { x1: PAD.left, x2: width - PAD.right, y1: this.y(v), y2: this.y(v) })
        // Without a point there is no scale yet, only a place for it.
        if (!empty) node(this.grid, "text", { x: PAD.left - 7, y: this.y(v) + 4, "text-anchor": "end" }, this.unit.tick(v))
      }
      for (const v of ticks(this.steps, Math.max(2, Math.floor(w / 70)))) {
        node(this.grid, "text", { x: this.x(v), y: HEIGHT - PAD.bottom + 17, "text-anchor": "middle" }, String(v))
      }
      node(this.grid, "text", { x: width - PAD.right, y: HEIGHT - 3, "text-anchor": "end", class: "axis" }, this.words.axis)
    }
    for (const s of this.series.values()) {
      s.line.setAttribute("d", s.points.map(([a, b], i) => `${i ? "L" : "M"}${this.x(a).toFixed(1)} ${this.y(b).toFixed(1)}`).join(""))
      s.marks.setAttribute("d", s.markers ? s.points.map(([a, b]) => marker(s.style.marker, this.x(a), this.y(b), 4)).join("") : "")
    }
    if (this.at === undefined) this.values()
  }

  /** The legend's numbers: from the first to the last point, or the ones at the pointer. */
  values(at) {
    for (const s of this.series.values()) {
      const p = s.points
      let text = ""
      if (p.length && at === undefined) text = p.length > 1 ? `${this.unit.text(p[0][1])} → ${this.unit.text(p[p.length - 1][1])}` : this.unit.text(p[0][1])
      else if (p.length) text = this.unit.text(p.reduce((a, b) => (Math.abs(b[0] - at) < Math.abs(a[0] - at) ? b : a))[1])
      s.value.textContent = text
    }
  }

  point(event) {
    const box = this.svg.getBoundingClientRect()
    const wanted = ((event.clientX - box.left - PAD.left) / (this.width - PAD.left - PAD.right)) * this.steps
    let best
    for (const s of this.series.values()) for (const [step] of s.points) if (best === undefined || Math.abs(step - wanted) < Math.abs(best - wanted)) best = step
    if (best === undefined) return
    this.at = best
    for (const [key, value] of Object.entries({ x1: this.x(best), x2: this.x(best), y1: PAD.top, y2: HEIGHT - PAD.bottom, visibility: "visible" })) this.rule.setAttribute(key, value)
    this.readout.textContent = fill(this.words.at_step, { step: best })
    this.values(best)
  }

  unpoint() {
    this.at = undefined
    this.rule.setAttribute("visibility", "hidden")
    this.readout.textContent = ""
    this.values()
  }
}

class View {
  constructor(parent, data) {
    this.parent = parent
    this.run = { status: data.status, step: 0, steps: data.steps || 0, queue_position: data.queue_position }
    this.next = 0
    this.steps = new Map()
    this.scores = new Map()
    this.samples = new Map()
    this.born = Date.now()
    this.told = false
    const root = parent.querySelector(".root")
    root.replaceChildren()
    const style = node(root, "link", { rel: "stylesheet", href: new URL("live.css", import.meta.url).href })
    this.body = node(root, "div", { class: "body" })
    // Nothing is shown before its style is there.
    this.body.style.visibility = "hidden"
    style.onload = style.onerror = () => { this.body.style.visibility = "" }
    this.status = node(this.body, "p", { class: "status" })
    this.spoken = node(this.body, "p", { class: "unseen", role: "status" })
    this.bar = node(this.body, "div", { class: "bar", "aria-hidden": "true" })
    this.fill = node(this.bar, "div")
    this.charts = node(this.body, "div", { class: "charts" })
    this.loss = new Panel(this.charts, data.words.loss_title, { text: number, tick: (v) => local(String(+v.toPrecision(3))) }, data.words.loss, data.words)
    this.score = new Panel(this.charts, data.words.score_title, { text: (v) => percent(v / 100), tick: (v) => `${v} %` }, data.words.score, data.words)
    this.table = node(this.body, "div", { class: "samples" })
    this.observer = new ResizeObserver(() => this.draw())
    this.observer.observe(this.body)
    this.update(data)
  }

  update(data) {
    this.data = data
    if (!data.api) {
      this.run = { ...this.run, ...data.run, status: data.status }
      this.steps.clear(); this.scores.clear(); this.samples.clear()
      this.add(data.events || [])
      this.paint()
    } else if (!this.polling) {
      this.polling = true
      this.paint()
      this.poll()
    }
  }

  add(events) {
    for (const e of events) {
      if (e.kind === "preparing") {
        // The first one says how much an earlier fetch had left behind; the rate counts from there.
        this.fetched = { from: this.fetched?.from || e, now: e }
      } else if (e.kind === "started") {
        this.fetched = undefined
        this.run.steps = e.steps
        for (const rows of [this.steps, this.scores, this.samples]) for (const step of [...rows.keys()]) if (step > e.resumed_at) rows.delete(step)
      } else if (e.kind === "step") this.steps.set(e.step, e)
      else if (e.kind === "evaluated") this.scores.set(e.step, e)
      else if (e.kind === "sampled") this.samples.set(e.step, e)
    }
  }

  async poll() {
    let wait = document.hidden ? 3000 : this.data.every
    try {
      const answer = await fetch(`${this.data.api}?after=${this.next}`, { cache: "no-store", credentials: "same-origin" })
      if (this.dead) return
      if (answer.status === 404) {
        this.say(this.data.missing)
        this.polling = false
        return
      }
      if (!answer.ok) throw new Error(String(answer.status))
      const news = await answer.json()
      if (this.dead) return
      const more = news.next > this.next
      this.next = news.next
      this.run = { ...news.run, steps: news.run.steps || this.run.steps }
      this.add(news.events)
      this.paint()
      if (OVER.includes(this.run.status) && !more) {
        this.polling = false
        if (!this.told) { this.told = true; this.tell("done", this.run.status) }
        return
      }
      if (OVER.includes(this.run.status)) wait = 0
    } catch (error) {
      if (this.dead) return
      this.say(this.data.words.no_answer)
      wait = 2000
    }
    this.timer = setTimeout(() => this.poll(), wait)
  }

  say(text, spoken = text) {
    this.status.textContent = text
    // Screen readers hear changes of state, not every step.
    if (this.spoken.textContent !== spoken) this.spoken.textContent = spoken
  }

  describe() {
    const { status, queue_position: place } = this.run
    const words = this.data.words
    const list = [...this.steps.values()].sort((a, b) => a.step - b.step)
    const last = list[list.length - 1]
    const total = this.run.steps
    if (this.data.status_line !== undefined && !this.data.api) return [this.data.status_line, this.data.status_line]
    const waited = Math.round((Date.now() - this.born) / 1000)
    const sofar = waited > 2 ? ` ${waited} s` : ""
    if (status === "queued") {
      const waiting = fill(words.in_queue, { place })
      if (place && place > 1) return [waiting, waiting]
      return [`${words.next_in_queue} …${sofar}`, `${words.next_in_queue}.`]
    }
    if (status === "running" && !last && this.fetched) return this.fetching()
    if (status === "running" && !last) {
      const what = this.scores.size ? words.scored : words.loading
      return [`${what} …${sofar}`, `${what}.`]
    }
    if (status === "running") {
      const from = list[Math.max(0, list.length - 20)]
      const rate = last.step > from.step ? (last.step - from.step) / Math.max(1e-6, last.seconds - from.seconds) : 0
      const parts = [fill(words.of_steps, { step: last.step, steps: total })]
      if (last.step >= total && total) parts.push(words.saving)
      else if (rate > 0) {
        parts.push(rate >= 1 ? fill(words.steps_a_second, { rate: local(rate.toFixed(1)) }) : fill(words.seconds_a_step, { seconds: local((1 / rate).toFixed(1)) }))
        parts.push(fill(words.left, { time: duration((total - last.step) / rate) }))
      }
      return [parts.join(" · "), words.is_training]
    }
    return [words.ended[status] || status, words.ended[status] || status]
  }

  /** How far the base is on its way from the hub. */
  fetching() {
    const { from, now } = this.fetched
    const words = this.data.words
    const rate = (now.done_bytes - from.done_bytes) / Math.max(1e-6, now.seconds - from.seconds)
    const parts = [fill(words.fetching, { base: now.base, done: mebibytes(now.done_bytes), total: mebibytes(now.total_bytes) })]
    if (now.done_bytes >= now.total_bytes) parts[0] = fill(words.fetched, { base: now.base })
    else if (rate > 0) parts.push(fill(words.a_second, { size: mebibytes(rate) }), fill(words.left, { time: duration((now.total_bytes - now.done_bytes) / rate) }))
    return [parts.join(" · "), fill(words.is_fetching, { base: now.base })]
  }

  paint() {
    this.say(...this.describe())
    const list = [...this.steps.values()].sort((a, b) => a.step - b.step)
    const scores = [...this.scores.values()].sort((a, b) => a.step - b.step)
    const done = list.length ? list[list.length - 1].step : 0
    const on = !OVER.includes(this.run.status) && Boolean(this.data.api)
    this.bar.hidden = !on
    const share = this.fetched ? this.fetched.now.done_bytes / Math.max(1, this.fetched.now.total_bytes) : this.run.steps ? done / this.run.steps : 0
    this.fill.style.width = `${100 * Math.min(1, share)}%`
    const { task, skills, title } = this.data.styles
    this.loss.set("train", list.map((e) => [e.step, e.loss]), { ...task, dash: "solid" }, { label: this.data.words.training, width: 1.6 })
    this.loss.set("held-out", scores.map((e) => [e.step, e.loss]), { ...this.data.styles.held_out }, { label: this.data.words.held_out, markers: true })
    // Before the first look nobody knows whether anything was held out; its place in the legend is kept until then.
    this.loss.series.get("held-out").item.hidden = scores.length > 0 && scores.every((e) => e.loss === null)
    if (scores.some((e) => e.exact_match !== null)) {
      this.score.set("task", scores.map((e) => [e.step, e.exact_match === null ? null : 100 * e.exact_match]), task, { label: title, width: 3, markers: true })
    }
    const names = scores.length ? Object.keys(scores[0].skills || {}) : []
    names.forEach((name, i) => {
      this.score.set(name, scores.map((e) => [e.step, name in e.skills ? 100 * e.skills[name] : null]), skills[i % skills.length], { label: this.data.words.skills[name] || name.replaceAll("_", " "), width: 1.4, markers: true })
    })
    this.draw()
    this.tabulate()
  }

  draw() {
    const width = Math.floor(this.loss.figure.clientWidth)
    // A run that ended before its first point has nothing to draw.
    this.charts.hidden = !this.data.api && this.steps.size === 0 && this.scores.size === 0
    if (width < 40) return
    const all = [...this.loss.series.values()].flatMap((s) => s.points.map((p) => p[1]))
    // The frame grows in steps of the axis, so that it holds still while points arrive.
    const highest = all.length ? Math.max(...all) : 1
    const lines = ticks(highest, 5)
    const top = lines[lines.length - 1] >= highest ? lines[lines.length - 1] : lines[lines.length - 1] + (lines[1] || 1)
    const steps = this.run.steps || Math.max(1, ...this.steps.keys())
    this.loss.draw(width, steps, top || 1)
    // Data without an exact grader has no scores to draw; until the first look nobody knows.
    this.score.figure.hidden = this.score.series.size === 0 && (this.scores.size > 0 || !this.data.api)
    if (!this.data.api) for (const s of [...this.loss.series.values(), ...this.score.series.values()]) s.item.hidden = s.points.length === 0
    if (!this.score.figure.hidden) this.score.draw(Math.floor(this.score.figure.clientWidth) || width, steps, 100)
    for (const [panel, what] of [[this.loss, fill(this.data.words.loss_alt, { unit: this.data.words.loss })], [this.score, this.data.words.score_alt]]) {
      if (panel.legend.hidden) { panel.svg.setAttribute("aria-label", `${what} ${this.data.words.no_point}`); continue }
      const told = [...panel.series.values()].filter((s) => !s.item.hidden).map((s) => `${s.item.querySelector("span").textContent}: ${s.value.textContent || this.data.words.no_value}`)
      const label = `${what} ${told.join("; ")}.`
      if (panel.svg.getAttribute("aria-label") !== label && panel.at === undefined) panel.svg.setAttribute("aria-label", label)
    }
  }

  /** The same prompts at the first look and at the latest one. */
  tabulate() {
    const looks = [...this.samples.values()].filter((e) => e.samples.length).map((e) => e.step).sort((a, b) => a - b)
    const mark = looks.join(",")
    if (mark === this.tabulated || !looks.length) { this.table.hidden = !looks.length; return }
    this.tabulated = mark
    this.table.hidden = false
    const first = this.samples.get(looks[0])
    const last = this.samples.get(looks[looks.length - 1])
    const after = new Map(looks.length > 1 ? last.samples.map((s) => [s.prompt, s]) : [])
    this.table.replaceChildren()
    const table = node(this.table, "table")
    node(table, "caption", {}, this.data.words.samples)
    const head = node(node(table, "thead"), "tr")
    const words = this.data.words
    const columns = [words.prompt, looks[0] === 0 ? words.before : fill(words.step, { step: looks[0] }), looks.length > 1 ? fill(words.after_steps, { steps: last.step }) : words.after]
    for (const text of columns) node(head, "th", { scope: "col" }, text)
    const body = node(table, "tbody")
    for (const s of first.samples) {
      const row = node(body, "tr")
      const prompt = node(row, "th", { scope: "row", "data-label": columns[0] })
      node(prompt, "div", { class: "prompt" }, s.prompt)
      if (s.reference) node(prompt, "div", { class: "reference" }, fill(words.wanted, { text: s.reference }))
      this.answer(row, columns[1], s)
      this.answer(row, columns[2], after.get(s.prompt))
    }
  }

  answer(row, label, s) {
    const cell = node(row, "td", { "data-label": label })
    const words = this.data.words
    if (!s) { node(cell, "div", { class: "pending" }, words.not_yet); return }
    node(cell, "div", { class: "output" }, s.output || words.nothing)
    if (s.right === true || s.right === false) node(cell, "div", { class: s.right ? "verdict right" : "verdict wrong" }, s.right ? words.right : words.wrong)
  }

  stop() {
    this.dead = true
    clearTimeout(this.timer)
    this.observer.disconnect()
  }
}

export default function ({ data, parentElement, setTriggerValue }) {
  let view = views.get(parentElement)
  decimal = data.words.decimal
  // Another run, the same one queued again, or another language: begin anew. The same run, over now: keep what is
  // drawn, and update it.
  const attempt = `${data.id}/${data.attempt}/${data.words.training}`
  if (view && (view.attempt !== attempt || view.dead)) { view.stop(); view = undefined }
  if (!view) {
    view = new View(parentElement, data)
    view.attempt = attempt
    views.set(parentElement, view)
    view.tell = setTriggerValue
  } else {
    view.tell = setTriggerValue
    view.update(data)
  }
  return () => { view.stop(); if (views.get(parentElement) === view) views.delete(parentElement) }
}
