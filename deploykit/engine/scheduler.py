"""One token budget a step: who computes how many tokens, in which blocks, and who gives way.

Running sequences come first in the order (priority, arrival), then waiting ones as rows, blocks and budget last.
Chunked prefill, decode and prefix hits are the same arithmetic: a sequence gets `min(pending, budget)` tokens, but
those that decode have theirs before any prompt is read, and prompts have the rest, up to a budget of their own.
When blocks run out the last sequence in the order is preempted: its blocks go, it waits, and later computes again.
"""

from __future__ import annotations

import dataclasses
import heapq

from deploykit.engine.blocks import BlockPool, PrefixKey, child_key
from deploykit.engine.budget import Budget
from deploykit.engine.request import Request, Sequence
from deploykit.engine.types import Admit, Capacity, Copy, Extend, Release, Step, Want, pack

_SAMPLE, _PROMPT_LOGPROBS = (
    int(Want.SAMPLE),
    int(Want.PROMPT_LOGPROBS),
)  # enum arithmetic is slow in a hot loop


@dataclasses.dataclass(slots=True)
class _News:
    """What a step tells the runner besides who computes."""

    admits: list[Admit] = dataclasses.field(default_factory=list)
    extends: list[Extend] = dataclasses.field(default_factory=list)
    copies: list[Copy] = dataclasses.field(default_factory=list)


class Scheduler:
    """Plans steps and keeps the books. Knows nothing of processes, clocks or text."""

    def __init__(
        self,
        capacity: Capacity,
        *,
        prefix_caching: bool = True,
        step_tokens: int | None = None,
        prefill_tokens: int | None = None,
        prefill_chunks: int | None = None,
    ) -> None:
        """`step_tokens` and `prefill_tokens` are what a step carries and what of it prompts may have (None: all that
        the runner takes). A prompt is read in `prefill_chunks` steps at most: one that would take more grows a step
        beyond `step_tokens`, up to the runner's capacity.
        """
        if len(capacity.groups) != 1 or capacity.groups[0].kind != "full":
            raise ValueError("this scheduler serves one KV group of kind 'full'")
        group = capacity.groups[0]
        self.capacity = capacity
        self.block_len = group.block_len
        self.pool = BlockPool(group.num_blocks)
        self.prefix_caching = prefix_caching
        self.step_tokens = min(step_tokens or capacity.max_step_tokens, capacity.max_step_tokens)
        self.prefill_tokens = min(prefill_tokens or capacity.max_step_tokens, capacity.max_step_tokens)
        self.prefill_chunks = prefill_chunks
        self.running: list[Sequence] = []  # in order
        self.rows: list[Sequence | None] = [None] * capacity.max_rows
        self.preemptions = 0
        self.suspects: set[Sequence] = set()
        # A heap; entries whose sequence has finished or runs are dropped when they come up.
        self._waiting: list[tuple[tuple[int, int, int], int, Sequence]] = []
        self._pushes = 0
        self._num_waiting = 0
        self._free_rows = list(range(capacity.max_rows - 1, -1, -1))
        self._epochs = [0] * capacity.max_rows
        self._releases: list[Release] = []
        self._seq = 0

    @property
    def num_waiting(self) -> int:
        return self._num_waiting

    @property
    def has_work(self) -> bool:
        return bool(self.running) or self._num_waiting > 0

    # ------------------------------------------------------------ coming and going

    def add(self, sequence: Sequence) -> None:
        self._pushes += 1
        heapq.heappush(self._waiting, (sequence.order, self._pushes, sequence))
        self._num_waiting += 1

    def finish(self, sequence: Sequence) -> None:
        """The sequence is over, for whatever reason. Doing it twice does nothing."""
        if sequence.finished:
            return
        sequence.finished = True
        self.suspects.discard(sequence)
        if sequence.row >= 0:
            if self.prefix_caching:
                self._publish_tail(sequence)
            self._vacate(sequence)
        else:
            self._num_waiting -= 1

    def preempt(self, sequence: Sequence) -> None:
        """Take a running sequence's row and blocks; tokens in flight are drawn again, the same ones."""
        self._vacate(sequence)
        sequence.known = len(sequence.tokens)
        sequence.computed = sequence.settled = 0
        self.preemptions += 1
        self.add(sequence)

    def quarantine(self) -> None:
        """A step failed as a whole: each running sequence computes again, alone, until it has drawn a token."""
        for sequence in list(self.running):
            self.suspects.add(sequence)
            self.preempt(sequence)

    def repeat_releases(self, steps: list[Step]) -> None:
        """Steps that failed may not have been applied: what they released is released again, which does no harm."""
        self._releases = [release for step in steps for release in step.releases] + self._releases

    def _vacate(self, sequence: Sequence) -> None:
        # A step in flight may still write to these blocks: steps run in launch order, a later owner's writes win.
        self.running.remove(sequence)
        self._releases.append(Release(sequence.row, sequence.epoch))
        self.rows[sequence.row] = None
        self._free_rows.append(sequence.row)
        sequence.row = -1
        # The end of a chain is let go first, so that the LRU evicts it before the prefix that leads to it.
        for block in reversed(sequence.blocks):
            self.pool.let_go(block)
        sequence.blocks = []
        sequence.keys = []

    # ------------------------------------------------------------ planning

    def plan(self) -> Step | None:
        """The next step, or None where there is nothing to compute."""
        most = self.capacity.max_step_tokens if self.prefill_chunks else self.step_tokens
        budget = Budget(self.step_tokens, self.prefill_tokens, most)
        work: list[tuple[Sequence, int]] = []
        news = _News()
        preempted = False
        alone = min(self.suspects, key=lambda s: s.order, default=None) if self.suspects else None

        # Tokens of this step for the running sequences from each one on, once one is met that reads its prompt.
        kept: list[int] = []
        running = list(self.running)
        for index, sequence in enumerate(running):
            if budget.most <= 0:
                break
            if sequence.row < 0 or (alone is not None and sequence is not alone):
                continue
            num_tokens = sequence.pending
            reads_prompt = num_tokens > 1
            if reads_prompt:
                if not kept and alone is None:
                    kept = self._kept(running)
                after = kept[index + 1] if kept else 0
                num_tokens = budget.of_prompt(num_tokens, self._least(sequence), after)
            if num_tokens < 1 or (sequence.known >= sequence.limit and not sequence.score_only):
                continue  # all that it may hold is computed or in flight
            need = self._blocks_for(sequence.computed + num_tokens) - len(sequence.blocks)
            if need > 0:
                preempted |= self._make_room(sequence, need)
                if sequence.row < 0:
                    continue  # it was the last in the order and gave way itself
                blocks = self._allocate(need)
                sequence.blocks += blocks
                news.extends.append(Extend(sequence.row, sequence.epoch, 0, tuple(blocks)))
            sequence.chunks += reads_prompt
            work.append((sequence, num_tokens))
            budget.take(num_tokens, of_prompt=reads_prompt)

        while budget.step > 0 and not preempted and self._free_rows:
            candidate = self._next_waiting() if alone is None else alone
            if candidate is None or candidate.row >= 0:
                break
            num_tokens = self._admit(candidate, budget, news)
            if num_tokens == 0:
                break
            work.append((candidate, num_tokens))
            budget.take(num_tokens, of_prompt=True)
        for copy in news.copies:  # held until here: a block that is read in this step isn't given away in it
            self.pool.let_go(copy.src)
        return self._step(work, news) if work else None

    def _step(self, work: list[tuple[Sequence, int]], news: _News) -> Step:
        rows, epochs, counts, flags = [], [], [], []
        for sequence, num_tokens in work:
            flag = 0
            if sequence.wants_prompt_logprobs and sequence.computed < sequence.prompt_len - 1:
                flag |= _PROMPT_LOGPROBS
            sequence.computed += num_tokens
            if sequence.pending == 0 and not sequence.score_only:
                flag |= _SAMPLE
                sequence.known += 1
            rows.append(sequence.row)
            epochs.append(sequence.epoch)
            counts.append(num_tokens)
            flags.append(flag)
        step = Step(
            seq=self._seq,
            rows=pack(rows),
            epochs=pack(epochs),
            num_tokens=pack(counts),
            flags=pack(flags),
            releases=tuple(self._releases),
            admits=tuple(news.admits),
            extends=tuple(news.extends),
            copies=tuple(news.copies),
        )
        self._releases = []
        self._seq += 1
        return step

    def _kept(self, running: list[Sequence]) -> list[int]:
        """What the sequences from each one on need of this step; 0 behind the last."""
        sums = [0]
        for sequence in reversed(running):
            sums.append(sums[-1] + self._least(sequence))
        return sums[::-1]

    def _least(self, sequence: Sequence) -> int:
        """Tokens that a running sequence needs of each step: one to decode, its share of a prompt within the chunks
        that it has left."""
        pending = sequence.pending
        if pending <= 1 or self.prefill_chunks is None:
            return 1 if pending == 1 else 0
        return -(-pending // max(1, self.prefill_chunks - sequence.chunks))

    def _make_room(self, sequence: Sequence, need: int) -> bool:
        """Preempt from the end of the order until `need` blocks are free; whether anybody gave way."""
        gave_way = False
        while self.pool.num_free < need and sequence.row >= 0:
            self.preempt(self.running[-1])
            gave_way = True
        return gave_way

    def _allocate(self, count: int) -> list[int]:
        blocks = self.pool.allocate(count)
        if blocks is None:
            raise AssertionError("blocks that were counted free are gone")
        return blocks

    def _blocks_for(self, num_tokens: int) -> int:
        return -(-num_tokens // self.block_len)

    def _next_waiting(self) -> Sequence | None:
        while self._waiting and (self._waiting[0][2].finished or self._waiting[0][2].row >= 0):
            heapq.heappop(self._waiting)
        return self._waiting[0][2] if self._waiting else None

    # ------------------------------------------------------------ admission

    def _admit(self, sequence: Sequence, budget: Budget, news: _News) -> int:
        """Give a waiting sequence a row; how many tokens it computes in this step (0: not now)."""
        leader = sequence.request.sequences[0]
        waits_for_leader = sequence is not leader and sequence not in self.suspects
        if waits_for_leader and not leader.finished and leader.settled < sequence.prompt_len:
            return 0  # siblings wait for the first one's prefill and share it
        shared, keys, source, computed = self._prefix(sequence, leader)
        # Only a sequence whose whole known length fits is let in, and a little is left for those who run, so that
        # newcomers don't push each other out.
        reserve = self.pool.num_blocks // 100 if self.running else 0
        need = self._blocks_for(sequence.known) - len(shared) + reserve
        free = self.pool.num_free - sum(1 for block in shared if self.pool.is_free(block))
        if source is not None and self.pool.is_free(source):
            if need < free:
                free -= 1
            else:  # the block to copy from is needed itself
                source, computed = None, len(shared) * self.block_len
        chunk = sequence.known - computed
        least = -(-chunk // self.prefill_chunks) if self.prefill_chunks else 0
        # A step grows for one prompt, not for a second one beside it.
        num_tokens = budget.of_prompt(chunk, 0 if budget.reads_a_prompt else least)
        if need > free or num_tokens < max(least, 1):
            return 0
        held = shared if source is None else [*shared, source]
        self._num_waiting -= 1
        for block in held:
            self.pool.hold(block)
        blocks = self._allocate(self._blocks_for(computed + num_tokens) - len(shared))
        if source is not None:
            news.copies.append(Copy(source, blocks[0]))

        row = self._free_rows.pop()
        self._epochs[row] += 1
        sequence.row, sequence.epoch = row, self._epochs[row]
        sequence.blocks, sequence.keys = shared + blocks, keys
        sequence.computed = sequence.settled = computed
        sequence.chunks = 1
        if not sequence.started:
            sequence.cached_tokens = computed
        self.rows[row] = sequence
        position = len(self.running)
        while position > 0 and self.running[position - 1].order > sequence.order:
            position -= 1
        self.running.insert(position, sequence)
        news.admits.append(
            Admit(
                row=row,
                epoch=sequence.epoch,
                tokens=pack(sequence.tokens),
                prompt_len=sequence.prompt_len,
                computed=computed,
                limit=sequence.limit,
                sampling=sequence.request.sampling,
                seed=sequence.seed,
                eos_token_ids=sequence.eos_token_ids,
            )
        )
        news.extends.append(Extend(row, sequence.epoch, 0, tuple(sequence.blocks)))
        return num_tokens

    def _prefix(
        self, sequence: Sequence, leader: Sequence
    ) -> tuple[list[int], list[PrefixKey], int | None, int]:
        """Whole blocks to share, their keys, a block to copy for what goes on in it, and how many tokens that is."""
        if sequence.wants_prompt_logprobs:
            return [], [], None, 0  # a hit would skip the logits that these are read from
        fresh_sibling = sequence is not leader and len(sequence.tokens) == sequence.prompt_len
        if fresh_sibling and leader.row >= 0 and leader.settled >= sequence.prompt_len:
            whole, rest = divmod(sequence.prompt_len - 1, self.block_len)
            source = leader.blocks[whole] if rest else None
            return leader.blocks[:whole], leader.keys[:whole], source, sequence.prompt_len - 1
        shared: list[int] = []
        keys: list[PrefixKey] = []
        if not self.prefix_caching:
            return shared, keys, None, 0
        key = sequence.request.root
        # The last known token is always computed: its logits are what the next one is drawn from.
        known = sequence.tokens[: sequence.known - 1]
        for start in range(0, len(known) - self.block_len + 1, self.block_len):
            next_key = child_key(key, known[start : start + self.block_len])
            block = self.pool.lookup(next_key)
            if block is None:
                break
            key = next_key
            shared.append(block)
            keys.append(key)
        computed = len(shared) * self.block_len
        tail = self.pool.find_tail(key, known[computed : computed + self.block_len])
        if tail is None:
            return shared, keys, None, computed
        return shared, keys, tail[0], computed + tail[1]

    # ------------------------------------------------------------ settling

    def settle(self, sequence: Sequence, num_tokens: int, new_tokens: list[int]) -> None:
        """A collected step computed `num_tokens` positions of the sequence and drew `new_tokens`."""
        sequence.settled += num_tokens
        sequence.tokens += new_tokens
        if new_tokens and self.suspects:
            self.suspects.discard(sequence)
        if self.prefix_caching:
            self._publish(sequence)

    def _publish(self, sequence: Sequence) -> None:
        """Make the sequence's full, collected blocks findable by their prefix."""
        whole = min(sequence.settled, len(sequence.tokens)) // self.block_len
        while len(sequence.keys) < whole:
            index = len(sequence.keys)
            parent = sequence.keys[-1] if sequence.keys else sequence.request.root
            start = index * self.block_len
            key = child_key(parent, sequence.tokens[start : start + self.block_len])
            sequence.keys.append(key)
            self.pool.publish(sequence.blocks[index], key)

    def _publish_tail(self, sequence: Sequence) -> None:
        """Make what stands in the sequence's last, partial block findable. Its full blocks are published."""
        settled = min(sequence.settled, len(sequence.tokens))
        whole = settled // self.block_len
        if whole == len(sequence.keys) and whole < len(sequence.blocks):
            parent = sequence.keys[-1] if sequence.keys else sequence.request.root
            tokens = sequence.tokens[whole * self.block_len : settled]
            self.pool.publish_tail(sequence.blocks[whole], parent, tokens)

    def abort(self, request: Request) -> None:
        for sequence in request.sequences:
            self.finish(sequence)

    def check(self) -> None:
        """Raise AssertionError unless rows, sequences and blocks agree."""
        self.pool.check()
        holders: dict[int, int] = {}
        for sequence in self.running:
            if self.rows[sequence.row] is not sequence:
                raise AssertionError(f"row {sequence.row} is not its sequence's")
            for block in sequence.blocks:
                holders[block] = holders.get(block, 0) + 1
        if holders != self.pool.holders():
            raise AssertionError("the blocks' holders are not the running sequences")
        if sorted(self._free_rows) != [r for r, s in enumerate(self.rows) if s is None]:
            raise AssertionError("the free rows are not the empty ones")
