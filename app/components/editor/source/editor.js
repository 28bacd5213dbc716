// The code editor of a lesson: CodeMirror 6, its buttons, and a line that says what became of the last run.
//
// What: the learner's code is this component's state "code", told a moment after the last key and when the focus leaves;
//   a press of a button (or Ctrl/Cmd-Enter) is the trigger "act": {do, code}; while code runs, "look" asks for news.
// How: the page sends {value, revision, original, phase, status, spoken, error, words, …}. `value` is taken over when the
//   component is mounted and when `revision` changes, never while somebody types; everything else at every update.
// Keyboard: Tab indents, as in every editor; Esc and then Tab leaves it, which the line below the editor says.
// What it is not: it runs nothing. The page does (app/cells/code.py).
// Built into ../editor.js by `make editor`. Colours come from the page's theme.

import { indentWithTab } from "@codemirror/commands"
import { python } from "@codemirror/lang-python"
import { HighlightStyle, indentUnit, syntaxHighlighting } from "@codemirror/language"
import { EditorState, Prec, StateEffect, StateField } from "@codemirror/state"
import { Decoration, EditorView, keymap } from "@codemirror/view"
import { tags } from "@lezer/highlight"
import { basicSetup } from "codemirror"

const WAIT_MS = 700 // after the last key, before the draft is told
const LOOK_MS = 300 // between an answer of the page and the next question, while code runs
const views = new WeakMap()

// Each pair is for a light and for a dark ground, at least 4.5:1 on the theme's own (tests/app/test_editor.py measures).
const COLOURS = {
  keyword: "light-dark(#7a2e9d, #d0a5f5)",
  string: "light-dark(#17653a, #86d6a8)",
  number: "light-dark(#8f4300, #f2b27c)",
  comment: "light-dark(#565d68, #a9b1be)",
  name: "light-dark(#1d4aa8, #97bbff)",
}
const highlight = HighlightStyle.define([
  { tag: [tags.keyword, tags.controlKeyword, tags.operatorKeyword, tags.definitionKeyword, tags.moduleKeyword], color: COLOURS.keyword },
  { tag: [tags.string, tags.special(tags.string)], color: COLOURS.string },
  { tag: [tags.number, tags.bool, tags.null], color: COLOURS.number },
  { tag: tags.comment, color: COLOURS.comment, fontStyle: "italic" },
  { tag: [tags.function(tags.definition(tags.variableName)), tags.definition(tags.className), tags.className], color: COLOURS.name, fontWeight: "600" },
  { tag: tags.function(tags.variableName), color: COLOURS.name },
  { tag: tags.meta, color: COLOURS.keyword },
])

const look = EditorView.theme({
  "&": {
    fontSize: "0.875rem", color: "var(--st-text-color)", backgroundColor: "var(--st-secondary-background-color)",
    border: "1px solid var(--st-border-color)", borderRadius: "var(--st-base-radius)", maxHeight: "32rem",
  },
  "&.cm-focused": { outline: "2px solid var(--st-primary-color)", outlineOffset: "1px" },
  ".cm-scroller": { fontFamily: "var(--st-code-font)", lineHeight: "1.55", overflow: "auto" },
  ".cm-content": { caretColor: "var(--st-text-color)", padding: "0.5rem 0" },
  ".cm-cursor": { borderLeftColor: "var(--st-text-color)" },
  ".cm-gutters": { backgroundColor: "transparent", border: "none", color: COLOURS.comment },
  ".cm-lineNumbers .cm-gutterElement": { minWidth: "2.2rem" },
  ".cm-activeLine, .cm-activeLineGutter": { backgroundColor: "transparent" },
  "&.cm-focused .cm-activeLine, &.cm-focused .cm-activeLineGutter": { backgroundColor: "color-mix(in srgb, var(--st-text-color) 5%, transparent)" },
  "&.cm-focused > .cm-scroller > .cm-selectionLayer .cm-selectionBackground, .cm-selectionBackground": {
    backgroundColor: "color-mix(in srgb, var(--st-primary-color) 28%, transparent)",
  },
  "&.cm-focused .cm-matchingBracket": { backgroundColor: "color-mix(in srgb, var(--st-primary-color) 25%, transparent)", outline: "1px solid currentColor" },
  ".cm-selectionMatch": { backgroundColor: "color-mix(in srgb, var(--st-primary-color) 14%, transparent)" },
  ".cm-wrong": { backgroundColor: "light-dark(#c2443f24, #e0625c3d)", boxShadow: "inset 3px 0 0 light-dark(#b3261e, #ff8a80)" },
  ".cm-panels": { backgroundColor: "var(--st-secondary-background-color)", color: "var(--st-text-color)", fontFamily: "var(--st-font)" },
  ".cm-tooltip": { backgroundColor: "var(--st-background-color)", color: "var(--st-text-color)", border: "1px solid var(--st-border-color)" },
  ".cm-tooltip-autocomplete ul li[aria-selected]": { backgroundColor: "var(--st-primary-color)", color: "#ffffff" },
})

// The line that an error came from is marked until the code is changed.
const setWrong = StateEffect.define()
const wrongLine = StateField.define({
  create: () => Decoration.none,
  update(marks, transaction) {
    for (const effect of transaction.effects) {
      if (!effect.is(setWrong)) continue
      const line = effect.value
      if (!line || line > transaction.state.doc.lines) return Decoration.none
      return Decoration.set([Decoration.line({ class: "cm-wrong" }).range(transaction.state.doc.line(line).from)])
    }
    return transaction.docChanged ? Decoration.none : marks
  },
  provide: (field) => EditorView.decorations.from(field),
})

function node(parent, name, attributes = {}, text) {
  const made = document.createElement(name)
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value)
  if (text !== undefined) made.textContent = text
  parent.appendChild(made)
  return made
}

class Editor {
  constructor(parent, component) {
    this.component = component
    const { data } = component
    this.revision = data.revision
    const root = parent.querySelector(".root")
    root.replaceChildren()
    const style = node(root, "link", { rel: "stylesheet", href: new URL("editor.css", import.meta.url).href })
    this.body = node(root, "div", { class: "body" })
    this.body.style.visibility = "hidden" // nothing is shown before its style is there
    style.onload = style.onerror = () => { this.body.style.visibility = "" }
    const host = node(this.body, "div")
    this.bar = node(this.body, "div", { class: "bar" })
    this.buttons = {}
    for (const [what, kind] of [["run", "primary"], ["stop", ""], ["original", "quiet"], ["restart", "quiet"]]) {
      const button = node(this.bar, "button", { type: "button", class: kind }, data.words[what])
      button.onclick = () => this.act(what)
      this.buttons[what] = button
      if (what === "stop") this.status = node(this.bar, "span", { class: "status", "aria-hidden": "true" })
    }
    this.hint = node(this.body, "p", { class: "hint", id: "hint" })
    this.spoken = node(this.body, "p", { class: "unseen", role: "status" })
    const go = { key: "Mod-Enter", preventDefault: true, run: () => this.act("run") }
    this.view = new EditorView({
      parent: host,
      doc: data.value,
      extensions: [
        Prec.highest(keymap.of([go, { ...go, key: "Shift-Enter" }])),
        basicSetup, python(), indentUnit.of("    "), syntaxHighlighting(highlight), look, wrongLine,
        keymap.of([indentWithTab]),
        EditorView.contentAttributes.of({ tabindex: "0", "aria-label": data.label, "aria-describedby": "hint", spellcheck: "false", autocapitalize: "off", autocorrect: "off" }),
        EditorView.updateListener.of((update) => { if (update.docChanged) this.changed() }),
        EditorView.domEventHandlers({ blur: () => { this.tell(); return false } }),
        EditorState.changeFilter.of((change) => change.newDoc.length <= data.most || change.newDoc.length < change.startState.doc.length),
      ],
    })
    this.told = data.value
    this.update(component)
  }

  code() { return this.view.state.doc.toString() }

  changed() {
    clearTimeout(this.timer)
    this.timer = setTimeout(() => this.tell(), WAIT_MS)
    this.offer()
  }

  tell() {
    clearTimeout(this.timer)
    const code = this.code()
    if (code === this.told) return
    this.told = code
    this.component.setStateValue("code", code)
  }

  act(what) {
    const { data } = this.component
    if (what === "original") {
      // An edit like any other: Ctrl-Z brings the own code back.
      this.view.dispatch({ changes: { from: 0, to: this.view.state.doc.length, insert: data.original }, userEvent: "input" })
      this.tell()
      this.view.focus()
      return true
    }
    const busy = data.phase !== "idle"
    if (what === "run" ? busy : what === "stop" && !busy) return true
    clearTimeout(this.timer)
    this.told = this.code()
    this.component.setStateValue("code", this.told)
    this.component.setTriggerValue("act", { do: what, code: this.told })
    if (what === "run") this.show("starting", data.words.starting)
    return true
  }

  /** Which buttons make sense now. */
  offer() {
    const { data } = this.component
    this.buttons.original.hidden = this.code() === data.original
    this.buttons.restart.hidden = !data.alive
  }

  show(phase, text) {
    const busy = phase !== "idle"
    this.buttons.run.disabled = busy
    this.buttons.stop.hidden = !busy
    this.bar.classList.toggle("busy", busy)
    clearInterval(this.clock)
    if (busy && this.since === undefined) this.since = Date.now()
    if (!busy) this.since = undefined
    const paint = () => {
      const seconds = busy && this.since !== undefined ? Math.floor((Date.now() - this.since) / 1000) : 0
      this.status.textContent = seconds > 1 ? `${text} ${seconds} s` : text
    }
    paint()
    if (busy) this.clock = setInterval(paint, 1000)
    clearTimeout(this.looking)
    // The next look waits for the answer to the last one, so a slow server is not asked faster than it answers.
    if (busy) this.looking = setTimeout(() => this.component.setTriggerValue("look", Date.now()), LOOK_MS)
  }

  update(component) {
    this.component = component
    const { data } = component
    if (this.revision !== data.revision) {
      this.revision = data.revision
      this.told = data.value
      this.view.dispatch({ changes: { from: 0, to: this.view.state.doc.length, insert: data.value } })
      clearTimeout(this.timer)
    }
    for (const [what, button] of Object.entries(this.buttons)) button.textContent = data.words[what]
    const apple = /Mac|iPhone|iPad/.test(navigator.platform)
    this.hint.textContent = data.words.hint.replace("Ctrl", apple ? "⌘" : "Ctrl")
    this.buttons.run.setAttribute("aria-keyshortcuts", apple ? "Meta+Enter" : "Control+Enter")
    this.show(data.phase, data.status)
    if (this.spoken.textContent !== data.spoken) this.spoken.textContent = data.spoken
    const mark = `${data.ran}/${data.error}`
    if (mark !== this.mark) {
      this.mark = mark
      this.view.dispatch({ effects: setWrong.of(this.code() === this.told ? data.error : 0) })
    }
    this.offer()
  }

  stop() {
    clearTimeout(this.timer)
    clearTimeout(this.looking)
    clearInterval(this.clock)
    this.view.destroy()
  }
}

export default function (component) {
  const { parentElement } = component
  let editor = views.get(parentElement)
  if (!editor) {
    editor = new Editor(parentElement, component)
    views.set(parentElement, editor)
  } else {
    editor.update(component)
  }
  return () => { if (views.get(parentElement) === editor) { views.delete(parentElement); editor.stop() } }
}
