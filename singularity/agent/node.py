"""Puts one node's agent together from its settings."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

from singularity.primitives.errors import DeviceUnavailable, SandboxFailed
from singularity.primitives.messages import Admission, DeviceNote, Register, Start
from singularity.store.imagestore import ImageStore
from singularity.store.places import open_blobs

from . import ports, processors, seats, wholegpus
from .checkpoint import Checkpointer, CriuCheckpointer, SuspendInPlace
from .client import ControlPlane
from .cooperative import Cooperative
from .executor import Executor
from .gang import GangServer
from .gpu import CudaDriver, DriverRefused, GpuCheckpointer
from .gpusharing import GpuSharing, Shim
from .hal.cpu import CpuManager
from .hal.faces import DeviceManager
from .hal.nvml import unfit, unyielding
from .handover import Handovers
from .images import Images
from .interposer.inject import prepare
from .inventory import look, manager
from .journal import Journal
from .layout import Layout, environment
from .leads import Leads
from .letterbox import LetterboxProcess
from .pacing import Pacemaker
from .printed import LogKeeper
from .programs import program
from .proof import find_criu, probe
from .recent import Recent
from .runtime import splicing
from .runtime.cgroup import Limits
from .runtime.lease import RunLease
from .runtime.network import HostNetwork, open_network
from .runtime.sandbox import RankSpec, Sandbox
from .scratch import open_scratch
from .settings import AgentSettings
from .sharing import ProcessorSharing, Sharer, Sharing, Unshared
from .shim.build import built, home
from .tools import Tools
from .warm import Warm
from .wholegpus import WholeGpus
from .worker import Agent

log = logging.getLogger(__name__)


@contextmanager
def open_node(settings: AgentSettings) -> Iterator[tuple[Agent, Executor]]:
    """The agent and its executor, ready to run; closes everything but the ranks."""
    layout = Layout(
        settings.node_dir,
        settings.run_dir,
        settings.volume,
        open_scratch(settings.node_dir, settings.scratch),
    )
    for directory in (layout.node_dir, layout.run, layout.volume):
        directory.mkdir(parents=True, exist_ok=True)
    prepare(layout.inject)
    with ExitStack() as stack:
        stack.callback(layout.scratch.close)
        journal = Journal(settings.node_dir / "journal.db")
        stack.callback(journal.close)
        if settings.join_token:
            journal.remember("join", settings.join_token)
        token = journal.recall("token") or settings.join_token
        control = ControlPlane(settings.api_url, token)
        stack.callback(control.close)
        leads = Leads(settings.node, layout, control.peer, settings.cut_deadline_s)
        handovers = Handovers(layout, control.peer)
        server = GangServer(settings.host, leads.judge, handovers.give)
        stack.callback(server.close)
        # A lambda, for `agent` is made only below.
        letterbox = LetterboxProcess(
            settings.node,
            lambda letter: agent.deliver(letter),  # noqa: PLW0108
        )
        stack.callback(letterbox.stop)

        def refresh(admission: Admission) -> None:
            letterbox.restart(admission.broker_url)

        devices = manager(settings.device, settings.devices)
        sharing = open_sharing(settings, layout, devices)
        register = Register(
            node=settings.node,
            region=settings.region,
            cluster=settings.cluster,
            rack=settings.rack,
            device=settings.device,
            devices=settings.devices,
            address=server.address,
            memory_bytes=sharing.memory_bytes,
            preempts=sharing.preempts,
            whole=sharing.whole,
        )
        if settings.splice and (reason := splicing.begin()):
            log.warning("ranks share no memory: %s", reason)

        def look_at(sharers: Sequence[Sharer]) -> tuple[DeviceNote, ...]:
            return look(devices, sharing.look(sharers), yields=sharing.yields)

        lease = RunLease(layout.lease)
        stack.callback(lease.close)
        agent = Agent(register, control, journal, lease, refresh, look_at)
        tools = make_tools(settings, layout, leads, handovers, sharing)
        executor = Executor(tools, agent.done)
        keeper = LogKeeper(executor.logs, settings.log_bytes)
        keeper.start()
        stack.callback(keeper.stop)
        if isinstance(sharing, GpuSharing):
            pacemaker = Pacemaker(sharing.pace)
            pacemaker.start()
            stack.callback(pacemaker.stop)
        yield agent, executor


def open_sharing(settings: AgentSettings, layout: Layout, devices: DeviceManager) -> Sharing:
    """How shares of this node's devices are given out, if that can be done."""
    if isinstance(devices, CpuManager):
        found = ProcessorSharing(settings.node, devices)
        if found.memory_bytes:
            return found
        reason = found.reason
    elif settings.share:
        try:
            reason = unfit(devices.driver())
            if settings.share_yield:
                reason = reason or unyielding(devices.driver())
            if not reason:
                library = built(home(*layout.shims))
                found_on = Shim(layout.devices, library, settings.share_yield)
                return GpuSharing(found_on, devices, layout.page)
        except DeviceUnavailable as error:
            reason = error.detail
    else:
        reason = "this node gives out its GPUs whole (SINGULARITY_SHARE)"
        return WholeGpus(layout, settings.devices, reason)
    log.warning("no shares of devices here: %s", reason)
    if isinstance(devices, CpuManager):
        return Unshared(reason)
    return WholeGpus(layout, settings.devices, reason)


def make_tools(
    settings: AgentSettings,
    layout: Layout,
    leads: Leads,
    handovers: Handovers,
    sharing: Sharing,
) -> Tools:
    """What every job's hands share, on a node with these settings."""
    network = open_network(settings.bridge, settings.subnet, settings.node_index)
    base = dict(os.environ)
    layout.lease.touch(mode=0o600)

    def create(start: Start, rank: int, view: int | None) -> Sandbox:
        if start.share and (reason := sharing.refuses(start.share)):
            raise SandboxFailed(reason)
        limits = sharing.limits(start, rank)
        if limits is None and start.memory_bytes:
            limits = Limits(memory_bytes=start.memory_bytes)
        where = network if start.serving is None else HostNetwork("routers must reach it")
        sandbox = Sandbox.create(layout.sandbox(start, rank), where, limits, view, layout.lease)
        if start.share and sandbox.unlimited:  # others have been promised the rest of the device
            sandbox.remove()
            raise SandboxFailed(f"its share cannot be enforced: {sandbox.unlimited}")
        return sandbox

    def launch(sandbox: Sandbox, start: Start, rank: int) -> None:
        env = environment(start, rank, layout, base, sandbox.address)
        env |= sharing.environment(start, rank, sandbox)
        found = program(start, rank, env)
        if start.serving is not None:
            port = ports.choose(sandbox.directory)
            env["PORT"] = str(port)
            found = replace(found, argv=ports.filled(found.argv, port))
        sandbox.launch(
            RankSpec(
                job=start.job,
                incarnation=start.incarnation,
                rank=rank,
                argv=found.argv,
                env={**env, **dict(found.env)},
                workdir=Path(start.workdir or "/"),
                log=layout.log(start.job, rank),
            )
        )

    store = ImageStore(open_blobs(settings.store or settings.volume))
    checkpointer = choose_checkpointer(settings.criu, sharing)
    images = Images(
        checkpointer=checkpointer,
        store=store,
        layout=layout,
        handovers=handovers,
        recent=Recent(),
        restore_deadline_s=settings.restore_deadline_s,
        processor=processors.here(),
        reseat=sharing.reseat,
        sharers_stuck=stuck(sharing, checkpointer),
        fixed=sharing.fixed,
    )
    return Tools(
        node=settings.node,
        layout=layout,
        images=images,
        handovers=handovers,
        warm=Warm(layout),
        cooperative=Cooperative(store, layout),
        leads=leads,
        network=network,
        create=create,
        launch=launch,
        release=sharing.release,
        fixed=sharing.fixed,
        reconnect_deadline_s=settings.reconnect_deadline_s,
        reslot_deadline_s=settings.reslot_deadline_s,
        first_step_s=settings.first_step_s,
        host=settings.host,
        ready_s=settings.ready_s,
        silent_s=settings.silent_s,
    )


def stuck(sharing: Sharing, checkpointer: Checkpointer) -> str:
    """Why ranks that have shares of devices cannot be carried as they are, "" where they can."""
    if not sharing.driven or isinstance(checkpointer, GpuCheckpointer | SuspendInPlace):
        return ""
    return "the CUDA driver of this node takes no rank off its GPU (`singularity doctor` says why)"


def choose_checkpointer(configured: str, sharing: Sharing) -> Checkpointer:
    """CRIU where it works, proven by doing; else none, and every refused cut says why."""
    criu = find_criu(configured)
    verdict = probe(criu)
    if criu is not None and verdict.ok:
        try:
            moves = wholegpus.moves if sharing.whole else seats.moves
            return GpuCheckpointer(criu, CudaDriver.open(), sharing.note, moves)
        except DriverRefused as error:
            log.info("ranks that use GPUs cannot be moved: %s", error)
            return CriuCheckpointer(criu)
    log.warning("jobs cannot be suspended or moved: %s", verdict.reason)
    return SuspendInPlace(verdict.reason)
