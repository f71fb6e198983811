"use strict";

const at = (id) => document.getElementById(id);
const study = JSON.parse(at("data").textContent);
const questions = [...document.querySelectorAll("fieldset")];
const place = `quals-fast study ${study.study}, annotator ${study.annotator}`;

let votes = study.pairs.map(() => ({})); // by pair and attribute: A, equal or B
let current = 0; // the pair on the page; after the last, the end

const unanswered = (pair) => questions.filter((one) => !votes[pair][one.dataset.attribute]);
const openPairs = () => [...votes.keys()].filter((pair) => unanswered(pair).length);

function restore() {
  try {
    const kept = JSON.parse(localStorage.getItem(place));
    if (kept?.length === votes.length) votes = kept;
  } catch {} // keep() tells
}

function keep() {
  try {
    localStorage.setItem(place, JSON.stringify(votes));
    at("unkept").hidden = true;
  } catch {
    at("unkept").hidden = false;
  }
}

function count() {
  const left = openPairs().length, n = votes.length;
  const where = current < n ? `Document ${current + 1} of ${n}, ` : "";
  at("count").textContent = where + (left ? `${left} left` : "all answered");
  at("done").value = n - left;
  for (const one of questions) one.classList.remove("unanswered");
  at("message").textContent = "";
}

function show(pair) {
  current = Math.min(Math.max(pair, 0), votes.length);
  const isEnd = current === votes.length;
  at("vote").hidden = isEnd;
  at("end").hidden = !isEnd;
  if (isEnd) {
    const left = openPairs().length;
    at("end").classList.toggle("complete", !left);
    at("open").hidden = !left;
    at("verdict").textContent = left
      ? `${left} of ${votes.length} documents have an open question. You can also save the votes as they are.`
      : "You have answered every question. Save your votes and send the file to the person who gave you this page.";
    at("end").focus();
  } else {
    for (const id of ["document", "A", "B"]) at(id).textContent = study.pairs[current][id].trim() || "(empty)";
    for (const input of document.querySelectorAll("input")) {
      input.checked = votes[current][input.name] === input.value;
    }
    at("back").disabled = current === 0;
    at("document").scrollTop = 0;
    if (document.activeElement !== document.body) at("document").focus({preventScroll: true});
  }
  count();
  scrollTo(0, 0);
}

at("vote").addEventListener("change", ({target}) => {
  votes[current][target.name] = target.value;
  keep();
  count();
  at("saved").textContent = "";
});

at("vote").addEventListener("submit", (event) => {
  event.preventDefault();
  const missing = unanswered(current);
  if (!missing.length) return show(current + 1);
  for (const one of missing) one.classList.add("unanswered");
  const names = missing.map((one) => one.dataset.name).join(", ");
  at("message").textContent = `Not answered yet: ${names}. Choose an answer, or skip this pair for now.`;
  missing[0].querySelector("input").focus();
});

at("back").addEventListener("click", () => show(current - 1));
at("return").addEventListener("click", () => show(current - 1));
at("skip").addEventListener("click", () => show(current + 1));
at("open").addEventListener("click", () => show(openPairs()[0]));

document.addEventListener("keydown", (event) => {
  const answer = {1: "A", 2: "equal", 3: "B"}[event.key];
  if (!answer || event.repeat || at("vote").hidden || event.ctrlKey || event.metaKey || event.altKey) return;
  const input = unanswered(current)[0]?.querySelector(`[value=${answer}]`);
  input?.click();
  input?.focus();
});

at("save").addEventListener("click", () => {
  const {pairs, ...whose} = study;
  const answers = votes.map((vote) =>
    Object.fromEntries(questions.map(({dataset}) => [dataset.attribute, vote[dataset.attribute] ?? null])));
  const text = JSON.stringify({...whose, votes: answers}, null, 1) + "\n";
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([text], {type: "application/json"}));
  link.download = `votes-${study.annotator}.json`;
  link.click();
  const left = openPairs().length;
  at("saved").textContent = `Saved ${link.download}` + (left ? `, with ${left} left` : "");
});

// Another tab with this page has changed the votes.
addEventListener("storage", ({key}) => {
  if (key !== place) return;
  restore();
  show(current);
});

restore();
document.querySelector("details").open = openPairs().length === votes.length;
show(openPairs()[0] ?? votes.length);
