"""Follower: wait for the end of one job, and tell what it does and how it ends in the cluster's own words.

A job is given up when its queue or run deadline passes, when a pod can never start, or when it restarts and restarts
without coming any further.
"""

import queue
import threading
import time
from collections import Counter
from typing import Any

from telellm.cluster import pods
from telellm.cluster.api import Api, ClusterError, Object, patiently
from telellm.cluster.jobs import Job, ShardsJob, State
from telellm.cluster.pods import End, Pod
from telellm.progress import Progress, duration, read_event
from telellm.recipe import Cluster
from telellm.stage import StageFailed

POLL_SECONDS = 1.0


class JobFailed(StageFailed):
    """A job came to its end without success: whoever starts it once more gets the same, unless somebody helps."""


class NeverRan(JobFailed):
    """The pods of a job did not all run before the deadline of the queue."""


class Follower:
    """Follows one job: its state is polled, its pods are watched, its log is read, each in its own time."""

    def __init__(self, job: Job, api: Api, collection: str, settings: Cluster, progress: Progress) -> None:
        self.job, self.api, self.settings, self.progress = job, api, settings, progress
        self.path = f"{collection}/{job.name}"
        self.news: queue.Queue[tuple[str, Any]] = queue.Queue()
        self.pods: dict[str, Pod] = {}
        self.heard: set[str] = set()
        self.ends: list[End] = []
        self.ended: set[str] = set()
        self.complaint = ""
        self.hopeless = ""
        self.over = False
        self.furthest = 0
        self.uid = ""
        self.queue_tells = True
        self.restarts: Counter[str] = Counter()
        self.stopped = threading.Event()

    def follow(self) -> None:
        """Return when the job has succeeded; raises `StageFailed` when it has not."""
        threading.Thread(target=self._watch, daemon=True).start()
        queued = worked = 0.0
        before, state = time.monotonic(), State("running")
        try:
            while True:
                self._hear(POLL_SECONDS)
                found = self._find()
                if found is None:
                    raise StageFailed(str(self._failure("the job was deleted by somebody else")))
                state, self.uid = self.job.state(found), found["metadata"]["uid"]
                self._show(found)
                if state.phase == "succeeded":
                    self._hear_the_rest(0.3)  # a right that is missing is told even where the job was faster
                    return
                if state.phase == "failed":
                    self._hear_the_rest(0.7)
                    raise self._failure(state.said)
                if self.hopeless:
                    raise self._failure(self.hopeless)
                now = time.monotonic()
                at_work = state.phase == "running" and self.job.all_at_work(list(self.pods.values()))
                queued, worked = (0.0, worked + now - before) if at_work else (queued + now - before, worked)
                before = now
                self._judge(state, queued, worked, at_work)
        finally:
            self.stopped.set()

    def _judge(self, state: State, queued: float, worked: float, at_work: bool) -> None:
        """Give the job up where a limit is passed; says why it waits where it does."""
        settings = self.settings
        if state.phase == "queued" or any(map(pods.has_no_room, self.pods.values())):
            self.restarts.clear()  # the others end when they have waited long enough for a pod without a node
        if not at_work:
            reason = self._waiting_reason(state)
            self.progress.note(f"waits {duration(queued)}: {reason}")
            if queued > settings.queue_seconds:
                limit = f"{duration(settings.queue_seconds)} (cluster.queue_seconds)"
                raise NeverRan(str(self._failure(f"not all of its pods ran within {limit}: {reason}")))
        if worked > settings.run_seconds:
            raise self._failure(f"it ran longer than {duration(settings.run_seconds)} (cluster.run_seconds)")
        if isinstance(self.job, ShardsJob):
            return  # the cluster counts the failures of each index
        if max(self.restarts.values(), default=0) > settings.training.restarts:
            raise self._failure(
                f"it was restarted {settings.training.restarts} times and came no further than step {self.furthest}"
            )

    def _waiting_reason(self, state: State) -> str:
        if state.phase == "queued":
            return f"{self.settings.queue or 'queue'}: {self._queue_says() or state.said}"
        reasons = Counter(filter(None, (pods.waits_for(pod) for pod in self.pods.values() if not pod.get("deleted"))))
        if not self.pods:
            kind = self.path.split("/")[-2]
            return f"it has no pods; if that lasts: kubectl -n {self.api.namespace} describe {kind} {self.job.name}"
        return reasons.most_common(1)[0][0] if reasons else "its pods start"

    def _queue_says(self) -> str:
        """Return why Kueue does not admit the job, where this account may know, or "" (Kueue: `QuotaReserved`)."""
        if not (self.settings.queue and self.queue_tells):
            return ""
        path = f"/apis/kueue.x-k8s.io/v1beta1/namespaces/{self.api.namespace}/workloads"
        try:
            for workload in self.api.list(path, f"kueue.x-k8s.io/job-uid={self.uid}"):
                for condition in workload.get("status", {}).get("conditions") or []:
                    if (condition["type"], condition["status"]) == ("QuotaReserved", "False"):
                        return str(condition["message"])
        except ClusterError as error:
            self.queue_tells = error.status not in (403, 404)
        return ""

    def _find(self) -> Object | None:
        """Return the job as it is; an API server that is away for a while is waited for."""
        last: ClusterError | None = None
        for pause in patiently():
            try:
                return self.api.find(self.path)
            except ClusterError as error:
                if error.status and error.status < 500 and error.status != 429:
                    raise
                last = error
                self.progress.note(str(error))
                time.sleep(pause)
        assert last is not None
        raise last

    def _hear(self, seconds: float) -> None:
        """Take news of pods and lines of the log as they come, for so long, or until a pod ends."""
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            try:
                kind, value = self.news.get(timeout=left)
            except queue.Empty:
                return
            if kind == "refused":
                raise value
            if kind == "line":
                self._take_line(value)
            elif kind == "pods":
                self._forget_all_but({pods.uid(pod) for pod in value})
            elif self._take_pod(value):
                return

    def _hear_the_rest(self, seconds: float) -> None:
        """The job's end is known before all of its pods' news are: their last words are wanted."""
        self.over = True
        self._hear(seconds)

    def _take_pod(self, pod: Pod) -> bool:
        """Remember a pod; True when it ended."""
        uid = pods.uid(pod)
        self.pods[uid] = pod
        self.hopeless = self.hopeless or pods.hopeless(pod)
        if pods.phase(pod) != "Pending" and uid not in self.heard and self.job.speaks(pod) and not pod.get("deleted"):
            self.heard.add(uid)
            self.complaint = ""
            threading.Thread(target=self._read_log, args=(pods.name(pod),), daemon=True).start()
        end = pods.end_of(pod)
        has_ended = uid not in self.ended and (end is not None or pods.phase(pod) == "Succeeded")
        if has_ended:
            self.ended.add(uid)
        if has_ended and end is not None:
            self.ends.append(end)
            self.restarts[end.pod] += 1
            if not self.over:
                self.progress.say(str(end).splitlines()[0][:300])
        if pod.get("deleted"):
            del self.pods[uid]
        return has_ended

    def _forget_all_but(self, left: set[str]) -> None:
        """Pods that are not listed any more went while nobody watched."""
        for uid in set(self.pods) - left:
            self._take_pod(dict(self.pods[uid]) | {"deleted": True})

    def _take_line(self, line: str) -> None:
        """Show what the pod that speaks says of its progress."""
        event = read_event(line)
        if event is None:
            return
        if event.get("state") == "failed":
            self.complaint = str(event["message"])
        elif event.get("state") == "said":
            self.progress.say(str(event["message"]))
        elif event.get("state") == "running" and not event.get("unit"):
            self.progress.note(event.get("note", ""))
        elif event.get("state") == "running":
            self.progress.pass_through(event)
            if event.get("done", 0) > self.furthest:
                self.furthest = event["done"]
                self.restarts.clear()
                self.ends.clear()

    def _show(self, found: Object) -> None:
        """Show how many pods of a job with shards are done."""
        total = found["spec"].get("completions", 1)
        if isinstance(self.job, ShardsJob) and total > 1:
            done = found.get("status", {}).get("succeeded") or 0
            self.progress.show(done, total, "pods")

    def _failure(self, said: str) -> JobFailed:
        """Return the whole story: the job's end, and the end of the pod that caused it."""
        causes = [end for end in self.ends if end.code != pods.PEER_LOST] or self.ends
        story = [f"{self.progress.stage}: the job {self.job.name} failed: {said}"]
        story += [str(cause) for cause in causes[:1]]
        if self.complaint and self.complaint not in "\n".join(story):
            story.append(self.complaint)
        return JobFailed("\n  ".join(story))

    def _watch(self) -> None:
        """Put every change of a pod into the news, until the job has ended."""
        while not self.stopped.is_set():
            try:
                listed, version = self.api.list_at(self.api.pods, self.job.selector)
                for kind, value in [("pods", listed), *(("pod", pod) for pod in listed)]:
                    self.news.put((kind, value))
                for pod in self.api.watch(self.api.pods, self.job.selector, version):
                    self.news.put(("pod", pod))
                    if self.stopped.is_set():
                        return
            except ClusterError as error:
                if error.status == 403:
                    self.news.put(("refused", error))
                    return
                time.sleep(1)

    def _read_log(self, pod: str) -> None:
        """Put the lines of a pod's log into the news, until it ends."""
        for pause in patiently(30):
            try:
                for line in self.api.log(pod, self.job.container):
                    self.news.put(("line", line))
                return
            except ClusterError as error:
                if error.status == 403:
                    self.news.put(("refused", error))
                if error.status in (403, 404) or self.stopped.is_set():
                    return
                time.sleep(pause)
