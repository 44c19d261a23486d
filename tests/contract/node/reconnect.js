// reconnect.js ENDPOINT USER PASSWORD LAST: subscribes to ResultSeq and prints what it heard, up to LAST, whatever happens
// to its connection and its session meanwhile. USER "" is anonymous.
"use strict";

const { AttributeIds, main, nodeIds, withSession } = require("./tags");
const { TimestampsToReturn, UserTokenType } = require("node-opcua-client");

main(async (endpoint, userName, password, last) =>
  withSession(
    endpoint,
    async (session) => {
      const nodeId = await nodeIds(session);
      const subscription = await session.createSubscription2({
        requestedPublishingInterval: 10, requestedMaxKeepAliveCount: 100, requestedLifetimeCount: 10000,
        publishingEnabled: true,
      });
      const heard = [];
      await new Promise((resolve) =>
        subscription
          .monitor(
            { nodeId: nodeId("ResultSeq"), attributeId: AttributeIds.Value },
            { samplingInterval: 10, queueSize: 100, discardOldest: true },
            TimestampsToReturn.Both
          )
          .then((item) =>
            item.on("changed", (value) => {
              heard.push(value.value.value);
              if (value.value.value === Number(last)) resolve();
            })
          )
      );
      return { heard };
    },
    { connectionStrategy: { maxRetry: 100, initialDelay: 50, maxDelay: 200 } },
    userName ? { type: UserTokenType.UserName, userName, password } : undefined
  )
);
