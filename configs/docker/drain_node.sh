#!/bin/sh
# drain-node SECONDS: hand this node's work over before its pod ends (preStop of configs/kuberay).
#
# A kubelet's SIGTERM ends raylet and replicas at once, running jobs included. Told to drain, Serve
# starts replacements on other nodes, sends them the new requests and lets the old replicas finish.
set -eu
seconds=$1

# Without a head the cluster is being taken down whole: there is nobody to hand over to.
timeout 60 ray drain-node --reason DRAIN_NODE_REASON_PREEMPTION \
    --reason-message "the pod is being stopped" --deadline-remaining-seconds "$seconds" || exit 0

while pgrep -f 'ray::(ServeReplica|ProxyActor)' > /dev/null; do
    sleep 2
done
