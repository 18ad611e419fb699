// Talks to the server: one stream of events, and single questions. The key travels in a header, so
// it is in no address and no log, and there is no cookie for another site to ride on.

const SLOWEST_RETRY_S = 15;
const SILENCE_S = 20; // the server says something more often than that, if only a comment

/** The server refused, and says why. */
export class Refused extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

/** The connection broke off, or there was none. */
class Lost extends Error {}

const lost = (error) => {
  throw new Lost(error);
};

const headersOf = (key) => (key ? { Authorization: `Bearer ${key}` } : {});

async function refusal(response) {
  const told = await response.json().catch(() => null);
  const message = told?.error?.message ?? `The server says ${response.status}.`;
  return new Refused(response.status, message);
}

/** GET, or POST where there is a body; its JSON. Throws Refused. */
export async function ask(path, key, body) {
  const response = await fetch(path, {
    method: body === undefined ? "GET" : "POST",
    headers: body === undefined
      ? headersOf(key) : { ...headersOf(key), "Content-Type": "application/json" },
    body: body === undefined ? undefined : JSON.stringify(body),
    cache: "no-store",
    credentials: "omit",
  });
  if (!response.ok) throw await refusal(response);
  return response.json();
}

/** The events in a stream of text: [name, data] each. */
async function* events(response, heard) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read().catch(lost);
    if (done) return;
    heard();
    const parts = (rest + value).split("\n\n");
    rest = parts.pop();
    for (const part of parts) {
      const lines = part.split("\n");
      const field = (name) => lines.filter((line) => line.startsWith(`${name}: `))
        .map((line) => line.slice(name.length + 2));
      const data = field("data").join("\n");
      if (data) yield [field("event")[0] ?? "message", JSON.parse(data)];
    }
  }
}

/** Follow the stream until stop() is called, and come back by itself when it breaks off.
 *
 *  on.hello, on.frame: what came. on.state: "connecting", "live", or "lost", with what the server
 *  said. on.refused: the key does not do; nothing more will come. */
export function follow(path, key, on) {
  let stopped = false;
  let abort = new AbortController();
  let wake = () => {};
  const stop = () => {
    stopped = true;
    abort.abort();
    wake();
  };

  async function once() {
    abort = new AbortController();
    let silence;
    const heard = () => {
      clearTimeout(silence);
      silence = setTimeout(() => abort.abort(), 1000 * SILENCE_S);
    };
    heard();
    try {
      const response = await fetch(path, {
        headers: headersOf(key), signal: abort.signal, cache: "no-store", credentials: "omit",
      }).catch(lost);
      if (!response.ok) throw await refusal(response);
      for await (const [name, data] of events(response, heard)) {
        if (stopped) return;
        if (name === "hello") on.state("live");
        on[name]?.(data);
      }
    } finally {
      clearTimeout(silence);
    }
  }

  async function run() {
    let wait = 1;
    const live = on.hello;
    on.hello = (data) => {
      wait = 1;
      live(data);
    };
    while (!stopped) {
      on.state("connecting");
      let why = "";
      try {
        await once();
      } catch (error) {
        if (error instanceof Refused && (error.status === 401 || error.status === 403)) {
          if (!stopped) on.refused(error);
          return;
        }
        if (error instanceof Refused) why = error.message;
        if (!(error instanceof Refused || error instanceof Lost)) throw error; // this page's fault
      }
      if (stopped) return;
      on.state("lost", why);
      await new Promise((resolve) => {
        const timer = setTimeout(resolve, 1000 * wait);
        wake = () => (clearTimeout(timer), resolve());
      });
      wait = Math.min(SLOWEST_RETRY_S, wait * (1.5 + Math.random()));
    }
  }

  run();
  return stop;
}
