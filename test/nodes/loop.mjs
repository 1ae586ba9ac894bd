// Asks who it is, again and again, until it is told to end. Each time it makes a client anew, and so asks for credentials anew.
// It writes a line each time: how long it took, and the identity or the error. Its argument is the SDK's folder.
import { createRequire } from "node:module";
import { join } from "node:path";

const { GetCallerIdentityCommand, STSClient } = createRequire(join(process.argv[2], "loop.js"))("@aws-sdk/client-sts");

let ended = false;
process.on("SIGTERM", () => (ended = true));
while (!ended) {
  const begun = performance.now();
  let said;
  try {
    said = "is " + (await new STSClient({}).send(new GetCallerIdentityCommand({}))).Arn;
  } catch (e) {
    said = "error " + JSON.stringify(`${e.name}: ${e.message}`);
  }
  console.log(Math.round(performance.now() - begun), said);
  await new Promise((done) => setTimeout(done, 100));
}
console.log(0, "end");
