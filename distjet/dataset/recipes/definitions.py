"""Which expression stands behind each name of a recipe, and which branches does it all need?

A recipe becomes up to three lists of definitions: that of the jets, and one each for a linked collection of candidates and
for a collection of reference jets that is still to be matched. Order matters (`recipe.py` says why), so a list
of definitions is a dict in order, and a name that is looked up from one of its own definitions means what stands above it.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property

from distjet.dataset.recipes.expressions import Expression, parse
from distjet.dataset.recipes.features import FEATURES, derived_components, scaled, summed_components
from distjet.dataset.recipes.recipe import JET_NAMES, P4_NAMES, TRUE_NAMES, FourMomentum, Recipe


@dataclass(frozen=True)
class Definitions:
    """Names in the order of their definition, and names that come ready from another collection."""

    formulas: Mapping[str, Expression]
    given: frozenset[str] = frozenset({"sample"})

    @cached_property
    def order(self) -> dict[str, int]:
        """The place of each name."""
        return {name: place for place, name in enumerate(self.formulas)}

    def branches(self, roots: Iterable[Expression]) -> set[str]:
        """Return the branches that the expressions need, directly or through names."""
        order = self.order
        expressions = list(self.formulas.values())
        found: set[str] = set()
        seen: set[int] = set()
        pending = [(root, len(order)) for root in roots]
        while pending:
            expression, visible = pending.pop()
            found |= expression.branch_names
            for name in expression.names - self.given:
                place = order.get(name, visible)
                if place >= visible:
                    found.add(name)
                elif place not in seen:
                    seen.add(place)
                    pending.append((expressions[place], place))
        return found


def jet_definitions(recipe: Recipe) -> Definitions:
    """Return the definitions on the level of jets and of their constituents."""
    gev = unit_in_gev(recipe)
    blocks = [
        (recipe.constituents, "", recipe.constituents is not None and recipe.constituents.jet_link is not None),
        (recipe.jet, "jet_", False),
        (recipe.truth, "true_", recipe.truth is not None and recipe.truth.is_collection),
    ]
    formulas: dict[str, str] = dict(recipe.variables)
    given: set[str] = {"sample"}
    for momentum, prefix, is_collection in blocks:
        if momentum is None:
            formulas |= summed_components(prefix) if prefix == "jet_" else {}
            continue
        components = _components(momentum, prefix, gev) | getattr(momentum, "variables", {})
        if is_collection:
            given |= set(components)
        else:
            formulas |= components
        formulas |= derived_components(set(momentum.given()), prefix)
    formulas |= {name: feature.formula for name, feature in FEATURES.items() if name not in formulas}
    return Definitions({name: parse(formula) for name, formula in formulas.items()}, frozenset(given))


def _components(momentum: FourMomentum, prefix: str, gev: float) -> dict[str, str]:
    return {prefix + name: scaled(name, formula, gev) for name, formula in momentum.given().items()}


def constituent_definitions(recipe: Recipe) -> Definitions | None:
    """Return the definitions inside a linked collection of candidates, if there is one."""
    constituents = recipe.constituents
    if constituents is None or constituents.jet_link is None:
        return None
    formulas = _components(constituents, "", unit_in_gev(recipe)) | constituents.variables
    return Definitions({name: parse(formula) for name, formula in formulas.items()})


def truth_definitions(recipe: Recipe) -> Definitions | None:
    """Return the definitions inside a collection of reference jets that is to be matched, if there is one."""
    if recipe.truth is None or not recipe.truth.is_collection:
        return None
    formulas = _components(recipe.truth, "true_", unit_in_gev(recipe)) | recipe.truth.variables
    formulas |= derived_components(set(recipe.truth.given()), "true_")
    return Definitions({name: parse(formula) for name, formula in formulas.items()})


def unit_in_gev(recipe: Recipe) -> float:
    """Return the file's unit of energy in GeV."""
    return {"GeV": 1.0, "MeV": 1e-3}[recipe.energy_unit]


def fixed_columns(recipe: Recipe) -> list[str]:
    """Return the four-momentum columns that every dataset of this kind has."""
    return [*(P4_NAMES if recipe.constituents else ()), *JET_NAMES, *(TRUE_NAMES if recipe.truth else ())]


def column_formulas(recipe: Recipe) -> dict[str, tuple[str, str]]:
    """Return for each numeric column its key in the recipe and its formula (labels and the identity are not plain formulas)."""
    formulas = {name: (_block_of(name), name) for name in fixed_columns(recipe)}
    formulas["weight"] = ("weight", recipe.weight)
    blocks = {"nodes": recipe.nodes, "graph": recipe.graph, "targets": recipe.targets, "spectators": recipe.spectators}
    for block, columns in blocks.items():
        formulas |= {column.name: (f"{block}.{column.name}", column.value) for column in columns}
    return formulas


def _block_of(name: str) -> str:
    return "jet" if name in JET_NAMES else "truth" if name in TRUE_NAMES else "constituents"


def required_branches(recipe: Recipe) -> list[str]:
    """Return every branch that the recipe reads, sorted."""
    texts = [text for text in (recipe.identity.run, recipe.identity.event, recipe.identity.jet_index) if text]
    texts += [formula for _, formula in column_formulas(recipe).values()]
    texts += [*(cut.value for cut in recipe.cuts), *recipe.labels.values(), *recipe.split.values()]
    if recipe.constituents is not None and recipe.constituents.padding is not None:
        texts.append(recipe.constituents.padding)
    if recipe.has_edges:
        texts += ["delta_eta", "delta_phi"]
    if recipe.truth is not None and recipe.truth.index is not None:
        texts.append(recipe.truth.index)
    found = jet_definitions(recipe).branches(parse(text) for text in texts)
    if (candidates := constituent_definitions(recipe)) is not None and recipe.constituents is not None:
        links = (str(recipe.constituents.jet_link), str(recipe.constituents.constituent_link))
        found |= candidates.branches(parse(text) for text in (*candidates.formulas, *links))
    if (truth := truth_definitions(recipe)) is not None:
        found |= truth.branches(parse(name) for name in truth.formulas)
    return sorted(found)
