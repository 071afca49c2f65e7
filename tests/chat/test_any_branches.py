"""Whatever people do to a conversation, from tabs that know nothing of each other, and whoever dies over it: every turn
has its place, can be gone back to, and the chosen branch ends with a leaf. `SOAK=1` draws a thousand histories."""

import datetime as dt
import os
from collections.abc import Callable, Iterator
from functools import partial
from unittest.mock import patch
from uuid import UUID

import pytest
from asgiref.sync import async_to_sync
from django.conf import settings as site
from django.utils import timezone
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from accounts.models import User
from billing import metering
from billing.models import BillingAccount, Plan
from chat.turns import forking, sweeping
from chat.turns.closing import close_turn
from chat.turns.opening import LATEST, Question, open_turn
from chat.turns.stopping import stop_turn
from core.errors import DomainError, Unavailable
from core.redis_clients import close_async_redis, sync_redis
from history import access, branches, deletion, order
from history.models import Conversation, Turn, new_id
from history.progress import Outcome
from tests.billing.together import together
from tests.chat.dying import Died, die, lose_runner

SOAK = os.environ.get("SOAK") == "1"
HISTORIES = int(os.environ.get("HISTORIES", 1_000 if SOAK else 8))
SEED = int(os.environ.get("SEED", 16))
PICK = st.integers(0, 10_000)

pytestmark = [pytest.mark.stores, pytest.mark.soak]


class Branching(RuleBasedStateMachine):
    """One person's conversations."""

    plan: Plan

    def __init__(self) -> None:
        super().__init__()
        sync_redis().flushall()
        self.user = User.objects.create(email=f"{new_id()}@example.com")
        BillingAccount.objects.create(user=self.user, plan=self.plan)
        self.known = [new_id(), new_id()]  # conversations, begun or not
        self.undos: list[str] = []
        self.in_trash: dict[UUID, set[UUID]] = {}  # conversations, with their turns

    # --- What a tab does

    @initialize()
    def begin(self) -> None:
        """Without turns most acts do nothing, and a history seldom comes to any by itself."""
        for _ in range(2):
            self.ask(0, "a")
            self.answer(0)
        self.ask(1, "a")

    @rule(where=PICK, text=st.sampled_from(["a", "b"]))
    def ask(self, where: int, text: str) -> None:
        self.try_to(self.asking(self.one_of(self.known, where), text))

    @rule(where=PICK, text=st.sampled_from(["a", "b"]), of=PICK)
    def edit(self, where: int, text: str, of: int) -> None:
        if turn := self.pick(of):
            self.try_to(self.asking(turn.conversation_id, text, parent_id=turn.parent_id))

    @rule(of=PICK)
    def regenerate(self, of: int) -> None:
        if turn := self.pick(of):
            self.try_to(self.asking(turn.conversation_id, turn.question, parent_id=turn.parent_id))

    @rule(of=PICK)
    def compare(self, of: int) -> None:
        if turn := self.pick(of):
            self.try_to(self.asking(turn.conversation_id, "", beside_id=turn.pk))

    @rule(of=PICK)
    def switch(self, of: int) -> None:
        if turn := self.pick(of):
            self.try_to(partial(self.choose, turn))

    @rule(of=PICK)
    def stop(self, of: int) -> None:
        if turn := self.pick(of):
            self.run(lambda: stop_turn(turn))

    @rule(of=PICK)
    def fork(self, of: int) -> None:
        if turn := self.pick(of):
            self.known.append(new_id())
            self.try_to(partial(forking.fork, self.user.pk, turn.pk, self.known[-1]))

    @rule(where=PICK)
    def delete(self, where: int) -> None:
        found = Conversation.objects.filter(owner_id=self.user.pk, is_deleted=None).order_by("pk")
        if conversations := list(found):
            deletion.delete_conversation(self.one_of(conversations, where))
            self.known.append(new_id())

    @rule(of=PICK, act=st.sampled_from(["trash", "restore", "erase"]))
    def put_in_order(self, of: int, act: str) -> None:
        if turn := self.pick(of):
            self.try_to(self.doing(act, turn.conversation_id))

    @rule(which=PICK)
    def undo(self, which: int) -> None:
        """It may be the undo of a page that has been open for long."""
        if self.undos:
            self.try_to(lambda: order.do(self.user.pk, *order.read_act(self.one_of(self.undos, which))))

    @rule(of=PICK)
    def lie_in_the_trash_for_long(self, of: int) -> None:
        if turn := self.pick(of):
            trashed = Conversation.objects.filter(pk=turn.conversation_id, trashed_at__isnull=False)
            trashed.update(trashed_at=timezone.now() - dt.timedelta(days=site.TRASH_DAYS + 1))

    @rule(of=PICK, other=PICK)
    def act_in_tabs_at_once(self, of: int, other: int) -> None:
        first, second = self.pick(of), self.pick(other)
        if first is None or second is None:
            return
        acts: list[Callable[[], object]] = [
            self.asking(first.conversation_id, "a"),
            self.asking(first.conversation_id, "b"),
            self.asking(second.conversation_id, "c", parent_id=second.parent_id),
            partial(self.choose, second),
            self.doing("trash", second.conversation_id),
            self.doing("restore", second.conversation_id),
        ]
        self.in_trash.clear()  # it may have been taken back, asked in, and put there again
        for answer in together(acts):
            assert not isinstance(answer, Exception) or isinstance(answer, DomainError), repr(answer)

    # --- What runners do, and who dies

    @rule(of=PICK)
    def answer(self, of: int) -> None:
        """Also for a runner that is gone."""
        if turn := self.pick(of, status__in=Turn.OPEN):
            close_turn(turn, Outcome(Turn.Status.COMPLETED, answer="Re.", usage_source="provider"))

    @rule(of=PICK, text=st.sampled_from(["", "half"]))
    def kill_runner(self, of: int, text: str) -> None:
        if turn := self.pick(of, status=Turn.Status.QUEUED):
            lose_runner(turn, text)

    @rule(of=PICK)
    def die_over_a_turn(self, of: int) -> None:
        """The turn is written, its conversation does not know."""
        if turn := self.pick(of):
            with patch("history.tree.rows.update", die), pytest.raises((Died, DomainError)):
                self.asking(turn.conversation_id, "lost")()

    @rule(of=PICK)
    def die_over_a_fork(self, of: int) -> None:
        if turn := self.pick(of):
            with patch("history.forks.rows.update", die), pytest.raises((Died, DomainError)):
                forking.fork(self.user.pk, turn.pk, new_id())

    @rule(of=PICK)
    def die_over_the_trash(self, of: int) -> None:
        """It is there, what is asked in it was not stopped."""
        if turn := self.pick(of):
            with patch("history.trash._announce_trashed", die), pytest.raises(Died):
                self.doing("trash", turn.conversation_id)()

    @rule()
    def sweep(self) -> None:
        long_ago = timezone.now() - sweeping.HELD_GRACE * 2
        Conversation.objects.filter(owner_id=self.user.pk, is_deleted=True).update(created_at=long_ago)
        self.run(sweeping.repair_turns)

    # --- What must hold

    @invariant()
    def every_turn_has_its_place_and_the_leaf_is_one(self) -> None:
        conversations = {row.pk: row for row in Conversation.objects.filter(owner_id=self.user.pk, is_deleted=None)}
        trees: dict[UUID, dict[UUID, Turn]] = {pk: {} for pk in conversations}
        for turn in Turn.objects.filter(owner_id=self.user.pk, conversation_id__in=trees):
            trees[turn.conversation_id][turn.pk] = turn
        for pk, turns in trees.items():
            for turn in turns.values():
                parent = turns[turn.parent_id] if turn.parent_id else None
                assert (turn.depth, turn.seq > (parent.seq if parent else 0)) == (
                    parent.depth + 1 if parent else 0,
                    True,
                )
            parents = {turn.parent_id for turn in turns.values()}
            leaf = branches.find_branch_end(conversations[pk]).leaf
            assert leaf is not None or not turns
            assert leaf is None or (leaf.pk in turns and leaf.pk not in parents)
            assert self.reachable(conversations[pk]) == set(turns)
        trashed = {pk: set(trees[pk]) for pk, row in conversations.items() if row.trashed_at}
        assert all(self.in_trash.get(pk, turns) == turns for pk, turns in trashed.items()), "It is as it was put there."
        self.in_trash = trashed

    def reachable(self, conversation: Conversation) -> set[UUID]:
        """Return the turns that somebody finds who opens the conversation and goes through all siblings."""
        seen, left = set[UUID](), [branches.list_branch(conversation, limit=1_000)]
        while left:
            branch = left.pop()
            seen |= {turn.pk for turn in branch.turns}
            for sibling in {pk for family in branch.siblings.values() for pk in family.ids} - seen:
                there = Conversation(pk=conversation.pk, owner_id=conversation.owner_id)
                there.leaf_id = branches._last_below(branches.get_turn(conversation, sibling))
                left.append(branches.list_branch(there, limit=1_000))
        return seen

    def teardown(self) -> None:
        """In the end nothing of what is deleted, or half copied, is left, and everything is paid once."""
        self.sweep()
        of_owner = Turn.objects.filter(owner_id=self.user.pk)
        assert not of_owner.filter(conversation_id__in=list(self.in_trash), status=Turn.Status.QUEUED).exists()
        # A runner has what waits, and what was shown to nobody when its own was killed.
        for turn in of_owner.filter(status__in=Turn.OPEN):
            close_turn(turn, Outcome(Turn.Status.FAILED))
        for _ in range(2):
            self.sweep()
        kept = Conversation.objects.filter(owner_id=self.user.pk).values_list("pk", flat=True)
        assert not Turn.objects.filter(owner_id=self.user.pk).exclude(conversation_id__in=list(kept)).exists()
        assert not Conversation.objects.filter(owner_id=self.user.pk, is_deleted=True).exists()
        assert not metering.list_unbalanced_periods().exists()

    # --- How

    def asking(self, conversation_id: UUID, text: str, **fields: object) -> Callable[[], object]:
        asked = {"turn_id": new_id(), "parent_id": LATEST, "model": "scripted"} | fields
        return lambda: open_turn(self.user.pk, Question(conversation_id=conversation_id, text=text, **asked))  # type: ignore[arg-type]

    def doing(self, act: str, conversation_id: UUID) -> Callable[[], object]:
        return lambda: self.undos.append(order.do(self.user.pk, act, {conversation_id: None}).undo)

    def choose(self, turn: Turn) -> None:
        conversation = access.access_conversation(self.user.pk, turn.conversation_id)
        branches.choose_branch(conversation, branches.get_turn(conversation, turn.pk))

    def pick(self, number: int, **where: object) -> Turn | None:
        turns = list(Turn.objects.filter(owner_id=self.user.pk, **where).order_by("pk"))
        return self.one_of(turns, number) if turns else None

    def try_to(self, act: Callable[[], object]) -> None:
        try:
            act()
        except Unavailable:
            raise
        except DomainError:
            pass  # refused, and nothing happened

    def run(self, work: Callable[[], object]) -> None:
        async def run() -> None:
            await work()  # type: ignore[misc]
            await close_async_redis()

        async_to_sync(run)()

    @staticmethod
    def one_of(things: list, number: int):  # type: ignore[no-untyped-def,type-arg]
        return things[number % len(things)]


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch, catalog: None) -> Iterator[None]:
    """Nobody waits for a runner that is dead; everybody may compare."""
    monkeypatch.setattr(deletion, "PATIENCE_SECONDS", 0)
    monkeypatch.setattr(sweeping, "ORPHAN_SECONDS", 0)
    Branching.plan = Plan.objects.create(key="open", name="Open", best_tier="strong", rank=9, has_comparison=True)
    return


@pytest.mark.timeout(7_200 if SOAK else 300)
def test_any_history_leaves_a_tree() -> None:
    machine = seed(SEED)(Branching)
    suppressed = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much]
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=HISTORIES,
            stateful_step_count=int(os.environ.get("STEPS", 12)),
            phases=[Phase.generate],
            suppress_health_check=suppressed,
            database=None,
        ),
    )
