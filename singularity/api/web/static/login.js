// A link of `singularity dashboard` has its code behind the '#', which no server or log is told.
const form = document.querySelector("form");
const code = location.hash.slice(1);
if (code.startsWith("sgc_")) {
  history.replaceState(null, "", location.pathname + location.search);
  form.elements.shown.value = code;
  form.requestSubmit();
} else if (!document.querySelector(".problem")) {
  // After a link on another web site the browser keeps its cookie back once; here it does not.
  fetch("/ui/session", { redirect: "manual" }).then((answer) => {
    if (answer.status === 204) location.replace(form.dataset.next);
  });
}
