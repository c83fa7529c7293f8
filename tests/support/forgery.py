"""What a forger can do who may write to the repository and has no key.

Adds: `collision`, a change of a vector that its row digest does not show.
"""

from fractions import Fraction

from cas_cache.format import rows


def collision(words: int) -> list[int]:
    """Return a number to add to each 32-bit word of a vector so that its digest stays; as small as LLL finds them.

    The digest is a sum of words times known factors, mod 2**64: a short vector of the lattice of all changes that
    vanish.
    """
    factors = [int(it) for it in rows._multipliers(1 + 8 + words)[9:]]
    first = pow(factors[0], -1, 2**64)
    # Row i changes word i by 1, and word 0 so that the sum vanishes; row 0 changes word 0 by 2**64, which vanishes.
    others = range(1, words)
    basis = [[2**64, *(0 for _ in others)]]
    basis += [[-first * factors[i] % 2**64, *(int(j == i) for j in others)] for i in others]
    short = _reduced(basis)[0]
    assert sum(f * d for f, d in zip(factors, short, strict=True)) % 2**64 == 0
    assert any(short)
    return short


def _reduced(basis: list[list[int]]) -> list[list[int]]:
    """Reduce a lattice's basis: Lenstra, Lenstra and Lovasz 1982, as in any textbook."""
    k = 1
    while k < len(basis):
        for j in range(k - 1, -1, -1):
            factor = round(_orthogonal(basis)[1][k][j])
            basis[k] = [a - factor * b for a, b in zip(basis[k], basis[j], strict=True)]
        star, mu = _orthogonal(basis)
        if _dot(star[k], star[k]) >= (Fraction(3, 4) - mu[k][k - 1] ** 2) * _dot(star[k - 1], star[k - 1]):
            k += 1
        else:
            basis[k], basis[k - 1] = basis[k - 1], basis[k]
            k = max(k - 1, 1)
    return basis


def _orthogonal(basis: list[list[int]]) -> tuple[list[list[Fraction]], list[list[Fraction]]]:
    star: list[list[Fraction]] = []
    mu = [[Fraction(0)] * len(basis) for _ in basis]
    for i, row in enumerate(basis):
        rest = [Fraction(x) for x in row]
        for j in range(i):
            mu[i][j] = _dot(row, star[j]) / _dot(star[j], star[j])
            rest = [a - mu[i][j] * b for a, b in zip(rest, star[j], strict=True)]
        star.append(rest)
    return star, mu


def _dot(one: list, other: list) -> Fraction:
    return sum((a * b for a, b in zip(one, other, strict=True)), Fraction(0))
