// Fetches the data of a view and mounts the viewer; what goes wrong is said where the viewer would be.
import { mount } from "/viewer.js";

const viewer = document.getElementById("viewer");
try {
  const answer = await fetch(viewer.dataset.payload);
  if (answer.ok) {
    mount(viewer, await answer.json(), { address: true });
  } else {
    const page = new DOMParser().parseFromString(await answer.text(), "text/html");
    say(page.querySelector(".note")?.textContent ?? `the server answered ${answer.status}`);
  }
} catch (error) {
  say(`${error}; is \`trace view\` still running?`);
}

function say(text) {
  const note = document.createElement("p");
  note.className = "note";
  note.setAttribute("role", "alert");
  note.textContent = text;
  viewer.replaceChildren(note);
}
