"""Sources whose entropy and conditionals are known exactly, as denoisers."""

import itertools

import torch
from torch import Tensor

from dnadiff.alphabet import DNA


class MarkovSource:
    """A Markov chain, and its exact denoiser by forward-backward on the evidence.

    The evidence of a position is proportional to `token_probs` where that is given, else a letter's
    own or none.
    """

    causal, needs_sigma, outputs, self_conditioned = False, False, 4, False

    def __init__(self, length: int, seed: int = 0) -> None:
        rng = torch.Generator().manual_seed(seed)
        weights = -(torch.rand(5, 4, generator=rng, dtype=torch.float64).log() ** 2)
        weights = weights / weights.sum(1, keepdim=True)
        self.start, self.step, self.length = weights[0], weights[1:], length

    def sample(self, count: int, seed: int = 1) -> Tensor:
        rng = torch.Generator().manual_seed(seed)
        x = torch.empty(count, self.length, dtype=torch.int64)
        x[:, 0] = torch.multinomial(self.start, count, True, generator=rng)
        for i in range(1, self.length):
            x[:, i] = torch.multinomial(self.step[x[:, i - 1]], 1, generator=rng)[:, 0]
        return x + DNA.first_id

    def entropy(self) -> float:
        """Exact entropy of a sequence in nats."""
        law, total = self.start, -(self.start * self.start.log()).sum()
        for _ in range(1, self.length):
            total = total - (law[:, None] * self.step * self.step.log()).sum()
            law = law @ self.step
        return float(total)

    def nll(self, tokens: Tensor) -> Tensor:
        """Exact -log p of the letters of each row; N is marginalised."""
        evidence = _evidence(tokens)
        message, total = self.start * evidence[:, 0], torch.zeros(len(tokens), dtype=torch.float64)
        for i in range(1, self.length):
            message = (message @ self.step) * evidence[:, i]
        return total - message.sum(1).log()

    def __call__(self, tokens: Tensor, sigma=None, label=None, token_probs=None) -> Tensor:
        evidence = _evidence(tokens, token_probs)
        left, right = (
            [self.start.expand(len(tokens), 4)],
            [torch.ones(len(tokens), 4, dtype=torch.float64)],
        )
        for i in range(1, self.length):
            left.append(_normalised((left[-1] * evidence[:, i - 1]) @ self.step))
        for i in range(self.length - 2, -1, -1):
            right.append(_normalised((right[-1] * evidence[:, i + 1]) @ self.step.T))
        return _normalised(torch.stack(left, 1) * torch.stack(right[::-1], 1)).log()


def _evidence(tokens: Tensor, token_probs: Tensor | None = None) -> Tensor:
    letters = torch.nn.functional.one_hot(DNA.letter_index(tokens), 4).double()
    evidence = torch.where(DNA.scorable(tokens)[..., None], letters, 1.0)
    if token_probs is None:
        return evidence
    return torch.where(
        (DNA.scorable(tokens) | (tokens == DNA.mask_id))[..., None],
        token_probs[..., :4].double(),
        evidence,
    )


def _normalised(message: Tensor) -> Tensor:
    return message / message.sum(-1, keepdim=True)


class IndependentSource(MarkovSource):
    """Independent letters with one distribution: a chain without memory."""

    def __init__(self, length: int, seed: int = 0) -> None:
        super().__init__(length, seed)
        self.step = self.start.expand(4, 4)


class CausalMarkovSource(MarkovSource):
    """The same chain as a left-to-right model: output i sees tokens before i only."""

    causal = True

    def __call__(self, tokens: Tensor, sigma=None, label=None, token_probs=None) -> Tensor:
        evidence, message = _evidence(tokens), [self.start.expand(len(tokens), 4)]
        for i in range(1, self.length):
            message.append(_normalised((message[-1] * evidence[:, i - 1]) @ self.step))
        return torch.stack(message, 1).log()


class JointSource:
    """A distribution over all short sequences as a table, and its exact denoiser by enumeration.

    The evidence of a position is proportional to `token_probs` where that is given, else a letter's
    own or none.
    """

    causal, needs_sigma, outputs = False, False, 4

    def __init__(self, length: int, seed: int = 0) -> None:
        table = self.weights(length, torch.Generator().manual_seed(seed))
        self.table, self.length = table / table.sum(), length
        self.sequences = torch.tensor(list(itertools.product(range(4), repeat=length)))

    def weights(self, length: int, rng: torch.Generator) -> Tensor:
        return torch.rand([4] * length, generator=rng, dtype=torch.float64) ** 3

    def entropy(self) -> float:
        """Exact entropy of a sequence in nats."""
        return float(-(self.table * self.table.log()).sum())

    def sample(self, count: int, seed: int = 1) -> Tensor:
        rng = torch.Generator().manual_seed(seed)
        return (
            self.sequences[torch.multinomial(self.table.reshape(-1), count, True, generator=rng)]
            + DNA.first_id
        )

    def nll(self, tokens: Tensor) -> Tensor:
        """Exact -log p of each row, all of whose tokens are letters."""
        return -self.table.reshape(-1)[self.index(tokens)].log()

    def __call__(self, tokens: Tensor, sigma=None, label=None, token_probs=None) -> Tensor:
        evidence, axes, out = _evidence(tokens, token_probs), "abcdefgh"[: self.length], []
        rows = torch.ones(len(tokens), dtype=torch.float64)
        for own in axes:
            others = axes.replace(own, "")
            terms = ",".join([axes, *(f"z{axis}" for axis in others), "z"])
            each = [evidence[:, axes.index(axis)] for axis in others]
            out.append(torch.einsum(f"{terms}->z{own}", self.table, *each, rows))
        return _normalised(torch.stack(out, 1)).log()

    def index(self, tokens: Tensor) -> Tensor:
        """The place of each sequence in the flattened table."""
        return (DNA.letter_index(tokens) * 4 ** torch.arange(self.length - 1, -1, -1)).sum(1)


class MixtureSource(JointSource):
    """A mixture of two kinds of sequences with independent letters: no letter is independent."""

    def weights(self, length: int, rng: torch.Generator) -> Tensor:
        laws = _normalised(torch.rand(2, 4, generator=rng, dtype=torch.float64) ** 3)
        tables = []
        for law in laws:
            table = law
            for _ in range(length - 1):
                table = table[..., None] * law
            tables.append(table)
        return tables[0] + tables[1]


def masked_nats(denoiser, tokens: Tensor, mask: Tensor) -> Tensor:
    """Number of scorable bases times the mean cross-entropy of the masked ones, (B,) nats."""
    logits = denoiser(torch.where(mask, DNA.mask_id, tokens))
    rows = []
    for row, hidden, letters in zip(logits.double(), mask, DNA.letter_index(tokens), strict=True):
        log_p = row.log_softmax(-1)
        costs = torch.stack([-log_p[i, letters[i]] for i in hidden.nonzero()[:, 0].tolist()])
        rows.append(costs.mean() * DNA.scorable(tokens[0]).sum())
    return torch.stack(rows)


class FromLogits:
    """A denoiser that changes another's logits: `change(logits)`."""

    causal, needs_sigma = False, False

    def __init__(self, source, change, outputs: int = 4) -> None:
        self.source, self.change, self.outputs = source, change, outputs

    def __call__(self, tokens: Tensor, sigma=None, label=None, token_probs=None) -> Tensor:
        return self.change(self.source(tokens, sigma, label, token_probs))


def with_mask_output(share: float):
    """For `FromLogits`: the same letters, and a mask of this share."""

    def change(logits: Tensor) -> Tensor:
        letters = logits.softmax(-1) * (1 - share)
        return torch.cat([letters, torch.full_like(letters[..., :1], share)], -1).log()

    return change


def hidden_costs(source: MarkovSource) -> Tensor:
    """c_k (L + 1,): exact mean cost of a base with k - 1 others masked, by subset entropies."""
    n = source.length
    table = source.start
    for _ in range(1, n):
        table = table[..., None] * source.step
    entropy = {}
    for size in range(n + 1):
        for known in itertools.combinations(range(n), size):
            p = table.sum([i for i in range(n) if i not in known]) if size < n else table
            entropy[known] = float(-(p * p.log()).sum()) if size else 0.0
    costs = torch.zeros(n + 1, dtype=torch.float64)
    for k in range(1, n + 1):
        rises = []
        for hidden in itertools.combinations(range(n), k):
            known = tuple(i for i in range(n) if i not in hidden)
            rises += [entropy[tuple(sorted((*known, i)))] - entropy[known] for i in hidden]
        costs[k] = sum(rises) / len(rises)
    return costs


def cost_at_rate(costs: Tensor, rate: Tensor) -> Tensor:
    """c(u) (...): n times the mean cost of a base while each other is masked with probability u."""
    n = len(costs) - 1
    k = torch.arange(1, n + 1, dtype=torch.float64)
    log_choose = (
        torch.lgamma(torch.tensor(n, dtype=torch.float64))
        - torch.lgamma(k)
        - torch.lgamma(n - k + 1)
    )
    weight = log_choose.exp() * rate[..., None] ** (k - 1) * (1 - rate[..., None]) ** (n - k)
    return n * (weight * costs[1:]).sum(-1)
