// subscribe.js ENDPOINT INTERVAL QUEUE LAST: subscribes to the tags of a result, writes ResultAck when it has been told of
// each, and prints what it was told of them at each new ResultSeq, until LAST.
"use strict";

const { AttributeIds, DataType, main, nodeIds, withSession } = require("./tags");
const { TimestampsToReturn } = require("node-opcua-client");

const RESULT = ["ResultSeq", "ResultEventId", "Verdict", "Reject", "ResultValid"];

main(async (endpoint, interval, queue, last) =>
  withSession(endpoint, async (session) => {
    const nodeId = await nodeIds(session);
    const subscription = await session.createSubscription2({
      requestedPublishingInterval: Number(interval), requestedMaxKeepAliveCount: 100, requestedLifetimeCount: 1000,
      publishingEnabled: true,
    });
    const seen = {};
    const steps = [];
    let done;
    const finished = new Promise((resolve) => (done = resolve));
    for (const tag of RESULT) {
      const item = await subscription.monitor(
        { nodeId: nodeId(tag), attributeId: AttributeIds.Value },
        { samplingInterval: 0, queueSize: Number(queue), discardOldest: true },
        TimestampsToReturn.Both
      );
      const first = new Promise((resolve) => item.once("changed", resolve));
      item.on("changed", (value) => {
        seen[tag] = value.value.value;
        if (tag !== "ResultSeq" || seen.ResultSeq === 1) return;
        steps.push(RESULT.map((name) => seen[name]));
        if (seen.ResultSeq === Number(last)) done();
      });
      await first;
    }
    await session.write({
      nodeId: nodeId("ResultAck"), attributeId: AttributeIds.Value,
      value: { value: { dataType: DataType.UInt32, value: 1 } },
    });
    await finished;
    return steps;
  })
);
