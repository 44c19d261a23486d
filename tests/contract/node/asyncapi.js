// asyncapi.js DOCUMENT MESSAGES: parses an AsyncAPI document with its own parser, then holds messages against it.
// MESSAGES is a JSON file: [{"topic": ..., "payload": ...}]. Prints what is wrong with either.
"use strict";

const { readFileSync } = require("fs");
const Ajv = require("ajv");
const addFormats = require("ajv-formats");
const { Parser } = require("@asyncapi/parser");
const { main } = require("./tags");

main(async (documentPath, messagesPath) => {
  const text = readFileSync(documentPath, "utf8");
  const { document, diagnostics } = await new Parser().parse(text);
  const errors = diagnostics.filter((found) => found.severity < 2).map((found) => `${found.path.join(".")}: ${found.message}`);
  if (!document) return { errors };
  const ajv = addFormats(new Ajv({ strict: false, allErrors: true }));
  ajv.addSchema({ $id: "document", components: JSON.parse(text).components });
  const validators = {};
  const channels = {};
  for (const channel of document.channels().all()) {
    const [message] = channel.messages().all();
    channels[channel.address()] = channel.operations().all().map((operation) => operation.action());
    const name = message.id();
    validators[channel.address()] = ajv.compile({ $ref: `document#/components/messages/${name}/payload` });
  }
  const invalid = JSON.parse(readFileSync(messagesPath, "utf8")).flatMap(({ topic, payload }) => {
    const validate = validators[topic];
    if (!validate) return [`no channel ${topic}`];
    return validate(payload) ? [] : [`${topic}: ${ajv.errorsText(validate.errors)}`];
  });
  return { errors, channels, invalid };
});
