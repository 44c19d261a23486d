// gate.js ENDPOINT COUNT: gives COUNT triggers, one at a time, and prints the tags it read at each new ResultSeq.
"use strict";

const { AttributeIds, DataType, main, nodeIds, readTags, withSession } = require("./tags");
const { TimestampsToReturn } = require("node-opcua-client");

const RESULT = [
  "ResultSeq", "ResultEventId", "ResultPartId", "ResultTriggerId", "Verdict", "Reject", "ResultValid", "Score", "Boxes",
  "BoxCount", "Reason", "Results",
];

main(async (endpoint, count) =>
  withSession(endpoint, async (session) => {
    const nodeId = await nodeIds(session);
    const write = (tag, dataType, value) =>
      session.write({ nodeId: nodeId(tag), attributeId: AttributeIds.Value, value: { value: { dataType, value } } });
    const subscription = await session.createSubscription2({
      requestedPublishingInterval: 10, requestedMaxKeepAliveCount: 100, requestedLifetimeCount: 1000,
      publishingEnabled: true,
    });
    const item = await subscription.monitor(
      { nodeId: nodeId("ResultSeq"), attributeId: AttributeIds.Value },
      { samplingInterval: 10, queueSize: 100, discardOldest: true },
      TimestampsToReturn.Both
    );
    let news = () => {};
    const steps = [];
    item.on("changed", (value) => {
      steps.push(value.value.value);
      news();
    });
    const results = [];
    for (let trigger = 1; trigger <= Number(count); trigger += 1) {
      const changed = new Promise((resolve) => (news = resolve));
      await write("TriggerPartId", DataType.String, `C-${trigger}`);
      await write("TriggerImageUri", DataType.String, `file:///${trigger}.png`);
      await write("TriggerEventId", DataType.String, `node-${trigger}`);
      await write("Trigger", DataType.UInt32, trigger);
      if (steps[steps.length - 1] !== trigger) await changed;
      results.push(await readTags(session, nodeId, RESULT));
      await write("ResultAck", DataType.UInt32, trigger);
    }
    return { steps, results };
  })
);
