"use strict";
// Shows the trajectories held in #data. Their text was written by models and tools: it only ever becomes text nodes.
(() => {
  const groups = JSON.parse(document.getElementById("data").textContent);
  const STATUS = {
    running: "unfinished", answered: "answered", step_limit: "step limit reached", context_full: "context full",
    bad_format: "bad format", tool_failure: "tool failure", replay_mismatch: "replay mismatch",
  };
  const VERIFIED = { student_success: "the student succeeds from here", recorded: "recorded", "": "not verified" };
  const VALUES = {
    before: "before the mistake", after: "after the mistake",
    corrected: "student, corrected", redrawn: "student, redrawn",
  };
  const FILTERS = {
    all: () => true, right: (t) => t.right, wrong: (t) => !t.right, corrected: (t) => t.corrections.length > 0,
  };
  const byId = (id) => document.getElementById(id);
  const select = byId("group"), filter = byId("filter"), list = byId("list"), shown = byId("shown");

  // `children` are elements, texts, and nulls for what is not there.
  function make(tag, className, ...children) {
    const element = document.createElement(tag);
    element.className = className;
    element.append(...children.filter((child) => child !== null));
    return element;
  }

  const plural = (n, noun) => `${n.toLocaleString("en")} ${noun}${n === 1 ? "" : "s"}`;
  const pill = (className, text) => make("span", `pill ${className}`, text);
  const tokens = (n, loss) => make("span", "count", `${plural(n, "token")}, ${loss ? "carrying loss" : "no loss"}`);
  const authors = (steps) => [...new Set(steps.map((step) => step.author))].map((author) => pill(author, author));
  const KINDS = { first_thought: ": the plan", malformed: ": malformed" };
  const stepName = (i, step) => `Step ${i}${KINDS[step.kind] ?? ""}`;

  function texts(name, text, { loss = false, pre = false, observation = false, counted = null } = {}) {
    if (!text) return null;
    const body = make("span", loss ? "loss" : "", text);
    const box = make(pre ? "pre" : "div", observation ? "texts observation" : "texts", body);
    return make("div", "", make("div", "name", name, " ", counted), box);
  }

  function turn(step, loss) {
    const seen = step.reason ? `observation (${step.reason})` : "observation";
    const counted = step.observation_tokens > 0 ? tokens(step.observation_tokens, false) : null;
    return [
      texts(step.kind === "malformed" ? "as written" : "thought", step.thought, { loss }),
      texts("code", step.code, { loss, pre: true }),
      texts(seen, step.observation, { pre: true, observation: true, counted }),
    ];
  }

  function stepBox(step, i) {
    const head = make(
      "div", "head", make("strong", "", stepName(i, step)), pill(step.author, step.author),
      step.given ? pill("plainpill", "given prefix") : null, tokens(step.tokens, step.loss),
    );
    const className = `step by-${step.author}${step.given ? " given" : ""}`;
    return make("div", className, head, ...turn(step, step.loss));
  }

  function correctionBox(correction, i) {
    const value = (name, text) => make("span", "", make("b", "", name), text);
    const share = ([name, x]) => value(VALUES[name] ?? name, `${name === "lift" && x > 0 ? "+" : ""}${x.toFixed(2)}`);
    const replaced = turn(correction.replacement, false);
    const mistakes = correction.mistakes.flatMap((step, k) => [
      correction.mistakes.length > 1 ? make("div", "name", `mistake ${k + 1} of ${correction.mistakes.length}`) : null,
      ...turn(step, false),
    ]);
    return make(
      "div", "correction",
      make("h4", "", `Correction ${i + 1}, of step ${correction.step}`),
      texts("diagnosis", correction.diagnosis),
      make(
        "div", "values", value("verified", VERIFIED[correction.verified] ?? correction.verified),
        ...Object.entries(correction.values).map(share),
      ),
      make(
        "div", "sides",
        make("div", "", make("h5", "", "before ", ...authors(correction.mistakes)), ...mistakes),
        make("div", "", make("h5", "", "after ", ...authors([correction.replacement])), ...replaced),
      ),
    );
  }

  function answerBox(name, value) {
    return make("div", "", make("b", "", name), value);
  }

  function questionBox(t) {
    const written = t.steps.reduce((sum, step) => sum + step.tokens, 0);
    const seen = t.steps.reduce((sum, step) => sum + step.observation_tokens, t.tokens);
    const trained = t.steps.reduce((sum, step) => sum + (step.loss ? step.tokens : 0), 0);
    return make(
      "div", "question",
      make(
        "div", "head", pill(t.right ? "right" : "wrong", t.right ? "right" : "not right"),
        pill("plainpill", STATUS[t.status] ?? t.status), t.benchmark ? make("span", "", t.benchmark) : null,
        make("span", "count", `${trained.toLocaleString("en")} of ${plural(written + seen, "token")} carry loss`),
      ),
      texts("question", t.question, { counted: tokens(t.tokens, false) }),
      make(
        "div", "answers",
        answerBox("submitted", t.answer ?? "nothing"),
        t.reference ? answerBox("reference", t.reference) : null,
        t.grade === null ? null : answerBox("grade", t.grade.toFixed(2)),
        t.grade_reason ? answerBox("reason", t.grade_reason) : null,
        answerBox("id", t.id),
      ),
    );
  }

  function show(t, button) {
    for (const other of list.querySelectorAll("button")) other.removeAttribute("aria-current");
    button.setAttribute("aria-current", "true");
    const numbered = t.corrections.map((correction, i) => [correction.step, correctionBox(correction, i)]);
    const boxes = (kept) => numbered.filter(([k]) => kept(k)).map(([, box]) => box);
    const steps = t.steps.flatMap((step, i) => [stepBox(step, i), ...boxes((k) => k === i)]);
    shown.replaceChildren(questionBox(t), ...steps, ...boxes((k) => k >= t.steps.length));
  }

  function item(t) {
    const sub = [plural(t.steps.length, "step")];
    if (t.corrections.length) sub.push(plural(t.corrections.length, "correction"));
    if (t.benchmark) sub.push(t.benchmark);
    if (t.status !== "answered") sub.push(STATUS[t.status] ?? t.status);
    const mark = make("span", t.right ? "right" : "wrong", t.right ? "✓ " : "✗ ");
    mark.setAttribute("aria-label", t.right ? "right" : "not right");
    const button = make(
      "button", "", make("span", "excerpt", mark, t.question.slice(0, 160)), make("span", "sub", sub.join(" · ")),
    );
    button.type = "button";
    button.addEventListener("click", () => show(t, button));
    return make("li", "", button);
  }

  function fill() {
    const chosen = filter.querySelector("input:checked").value;
    const { trajectories } = groups[select.selectedIndex];
    for (const input of filter.querySelectorAll("input")) {
      input.nextSibling.textContent = ` ${input.value} (${trajectories.filter(FILTERS[input.value]).length})`;
    }
    const items = trajectories.filter(FILTERS[chosen]).map(item);
    list.replaceChildren(...(items.length ? items : [make("p", "missing", "None.")]));
    shown.replaceChildren();
    list.querySelector("button")?.click();
  }

  select.append(...groups.map((group) => make("option", "", group.label)));
  for (const name of Object.keys(FILTERS)) {
    const input = make("input", "");
    Object.assign(input, { type: "radio", name: "filter", value: name, checked: name === "all" });
    filter.append(make("label", "", input, document.createTextNode("")));
  }
  select.addEventListener("change", fill);
  filter.addEventListener("change", fill);
  const marking = byId("marking");
  marking.addEventListener("change", () => byId("browser").classList.toggle("unmarked", !marking.checked));
  const corrected = groups.findIndex((group) => group.trajectories.some(FILTERS.corrected));
  select.selectedIndex = Math.max(corrected, 0);
  fill();
})();
