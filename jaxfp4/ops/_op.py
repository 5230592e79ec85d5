"""Op: what it takes to make one native operation a well-behaved JAX primitive.

An operation is an inner primitive, lowered on each platform to its FFI target or to the reference,
inside an outer one lowered through ``custom_partitioning``. The pair passes through jit, vmap,
scan, remat, export and sharding, on automatic and explicit meshes and in ``shard_map``;
derivatives are rules on the outer one.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import jax
import numpy as np
from jax import lax
from jax.experimental.custom_partitioning import custom_partitioning
from jax.extend.core import Primitive
from jax.interpreters import batching, mlir, xla
from jax.sharding import NamedSharding

from jaxfp4 import dispatch
from jaxfp4.ops._factors import Factors, MeshAxes, mesh_axes, spec_of

Shape = tuple[int, ...]
ShapedArray = jax.core.ShapedArray
_NO_MESH = jax.sharding.AbstractMesh((), ())
Result = tuple[Shape, Any]


class Op:
    """An operation with any number of array operands and one or more array results.

    Args:
      name: the word it goes by everywhere: FFI target ``jaxfp4_<name>_v1``, kernels, tests.
      results: ``(*operands, **params) -> [(shape, dtype), ...]``; raises on misfits.
      reference: ``(*operands, **params)`` in jax.numpy, with a tuple of results.
      attributes: ``(**params)`` to the integers that the FFI target takes.
      factors: ``(*shapes, **params)`` to the :class:`Factors` of the call.
      batch: ``(size, operands, axes, **params)`` to ``(operands, result axes, params)``, the
        operands of one call that serves a whole batch.
      combine: the collective that joins results over a sharded contraction: ``lax.psum`` or
        ``lax.pmax``.
      platforms: those that have, or may have, a kernel; elsewhere the reference is lowered.
      scratch: by platform, ``(*operand types, **params)`` to the bytes of memory that its kernel
        may use while it runs: one more result of the FFI target, unless there are none.
    """

    def __init__(
        self,
        name: str,
        *,
        results: Callable[..., Sequence[Result]],
        reference: Callable[..., Sequence[jax.Array]],
        attributes: Callable[..., dict[str, int]],
        factors: Callable[..., Factors],
        batch: Callable[..., tuple[list[jax.Array], list[int], dict[str, Any]]],
        combine: Callable[..., jax.Array] = lax.psum,
        platforms: tuple[str, ...] = dispatch.NATIVE_PLATFORMS,
        scratch: Mapping[str, Callable[..., int]] = MappingProxyType({}),
    ):
        self.name = name
        self.target = f"jaxfp4_{name}_v1"
        self._results = results
        self._reference = reference
        self._attributes = attributes
        self._factors = factors
        self._batch = batch
        self._combine = combine
        self._scratch = scratch
        self.inner = self._primitive(f"jaxfp4_{name}_inner")
        self.outer = self._primitive(f"jaxfp4_{name}")
        mlir.register_lowering(self.inner, self._lower_reference)
        for platform in platforms:
            lower = functools.partial(self._lower_native, platform)
            mlir.register_lowering(self.inner, lower, platform=platform)
        mlir.register_lowering(self.outer, self._lower_partitioned)
        _requires_devices_during_lowering(self.outer)
        dispatch.register(self)

    def __call__(self, *operands: jax.Array, **params: Any) -> list[jax.Array]:
        """Binds the primitive, on the back end in force."""
        params["backend"] = dispatch.current_backend()
        avals = [jax.typeof(x) for x in operands]
        mesh = _common_mesh(avals)
        if mesh is not None and mesh.are_all_axes_explicit:
            factors, chosen = self._explicit(avals, mesh, params)
            if over := _reduced_axes(factors, chosen):
                return self._call_in_shard_map(operands, factors, chosen, over, params)
        return self.outer.bind(*_match_varying(operands), **params)

    def local(self, *operands: jax.Array, **params: Any) -> list[jax.Array]:
        """The operation in another's reference: on one device, on the back end of that one."""
        return self.inner.bind(*operands, **params, backend=dispatch.current_backend())

    def _explicit(self, avals, mesh, params) -> tuple[Factors, dict[str, MeshAxes]]:
        """The factors of a call on an explicit mesh, and the mesh axes that shard them."""
        static = {k: v for k, v in params.items() if k != "backend"}
        shapes = [a.shape for a in avals]
        factors = self._factors(*shapes, **static)
        specs = [mesh_axes(a.sharding.spec, len(a.shape)) for a in avals]
        return factors, factors.assign(specs, shapes, dict(mesh.shape))

    def _call_in_shard_map(self, operands, factors: Factors, chosen, over, params):
        """A contraction over sharded axes of an explicit mesh, whose types name the collective.

        (``custom_partitioning`` cannot lower a collective while an explicit mesh is in force.)
        """

        def local(*xs):
            out = self.outer.bind(*_match_varying(xs), **params)
            return [self._combine(y, over) for y in out]

        specs = tuple(factors.spec(axes, chosen) for axes in factors.operands)
        placed = [jax.sharding.reshard(x, spec) for x, spec in zip(operands, specs, strict=True)]
        return jax.shard_map(
            local,
            in_specs=specs,
            out_specs=[factors.spec(axes, chosen) for axes in factors.results],
        )(*placed)

    def _primitive(self, name: str) -> Primitive:
        primitive = Primitive(name)
        primitive.multiple_results = True
        primitive.def_impl(functools.partial(xla.apply_primitive, primitive))
        primitive.def_abstract_eval(self._abstract_eval)
        batching.primitive_batchers[primitive] = self._batching_rule
        return primitive

    # Types.

    def _abstract_eval(self, *avals: Any, backend: str, **params: Any) -> list[Any]:
        results = self._results(*avals, **params)
        mesh = _common_mesh(avals)
        if mesh is not None:
            factors, chosen = self._explicit(avals, mesh, params)
        else:
            factors, chosen = self._factors(*[a.shape for a in avals], **params), {}
        return [
            _result_aval(avals[0], shape, dtype, mesh, factors.spec(axes, chosen))
            for (shape, dtype), axes in zip(results, factors.results, strict=True)
        ]

    # Lowering.

    def _lower_reference(self, ctx, *operands, backend: str, **params):
        def reference(*xs):
            # Plain types: what runs here is local to a device, whatever mesh is in force.
            with dispatch.lowering_for(backend), jax.sharding.use_abstract_mesh(_NO_MESH):
                return tuple(self._reference(*xs, **params))

        plain = ctx.replace(avals_in=[ShapedArray(a.shape, a.dtype) for a in ctx.avals_in])
        return mlir.lower_fun(reference, multiple_results=True)(plain, *operands)

    def _lower_native(self, platform: str, ctx, *operands, backend: str, **params):
        if not dispatch.use_native(self.name, platform, backend):
            return self._lower_reference(ctx, *operands, backend=backend, **params)
        attributes = {k: np.int64(v) for k, v in self._attributes(**params).items()}
        results = [*ctx.avals_out]
        if scratch := self._scratch_bytes(platform, ctx.avals_in, params):
            # A result, because XLA owns its memory as long as it may replay the call.
            ctx = ctx.replace(avals_out=[*results, ShapedArray((scratch,), np.uint8)])
        lowered = jax.ffi.ffi_lowering(self.target)(ctx, *operands, **attributes)
        return [*lowered][: len(results)]

    def _scratch_bytes(self, platform: str, avals, params) -> int:
        if platform not in self._scratch or not all(map(_is_static, avals)):
            return 0
        return self._scratch[platform](*avals, **params)

    def _lower_partitioned(self, ctx, *operands, **params):
        shapes = tuple(tuple(a.shape) for a in ctx.avals_in)
        call = self._partitioned(shapes, tuple(sorted(params.items())))
        return mlir.lower_fun(call, multiple_results=True)(ctx, *operands)

    @functools.lru_cache(maxsize=4096)  # noqa: B019 (operations live as long as the program)
    def _partitioned(self, shapes: tuple[Shape, ...], items: tuple[tuple[str, Any], ...]):
        params = dict(items)
        static = {k: v for k, v in params.items() if k != "backend"}
        factors = self._factors(*shapes, **static)
        call = custom_partitioning(_fixed_arity(len(shapes), self.inner, params))
        rule, sizes, replicated = factors.rule(shapes)
        call.def_partition(
            partition=functools.partial(self._partition, factors, params),
            sharding_rule=rule,
            reduction_factors=factors.reduced,
            need_replication_factors=replicated,
            **sizes,
        )
        return call

    def _partition(self, factors: Factors, params, mesh, operands, results):
        del results
        specs = [spec_of(x.sharding, len(x.shape)) for x in operands]
        chosen = factors.assign(specs, [x.shape for x in operands], dict(mesh.shape))
        over = _reduced_axes(factors, chosen)

        def lower(*local):
            with jax.sharding.use_abstract_mesh(_NO_MESH):
                out = self.inner.bind(*local, **params)
            return tuple(self._combine(y, over) if over else y for y in out)

        def place(axes):
            return NamedSharding(mesh, factors.spec(axes, chosen))

        return mesh, lower, tuple(map(place, factors.results)), tuple(map(place, factors.operands))

    # Batching.

    def _batching_rule(self, operands, axes, *, backend: str, **params):
        size = next(
            x.shape[axis] for x, axis in zip(operands, axes, strict=True) if axis is not None
        )
        operands, out_axes, params = self._batch(size, list(operands), list(axes), **params)
        # Bound as the outer primitive also under shard_map's and the lowering's traces.
        return self.outer.bind(*operands, backend=backend, **params), out_axes


def batch_leading(size: int, x: jax.Array, axis: int | None, position: int = 0) -> jax.Array:
    """x with its batch axis at ``position``, broadcast if it had none."""
    if axis is None:
        shape = (*x.shape[:position], size, *x.shape[position:])
        return lax.broadcast_in_dim(x, shape, tuple(i for i in range(len(shape)) if i != position))
    return jax.numpy.moveaxis(x, axis, position)


def _is_static(aval: Any) -> bool:
    return all(isinstance(size, int) for size in aval.shape)


def _fixed_arity(n: int, inner: Primitive, params: dict[str, Any]) -> Callable:
    """A function of exactly n positional arguments: custom_partitioning reads the signature."""
    if n == 1:
        return lambda a: tuple(inner.bind(a, **params))
    if n == 2:
        return lambda a, b: tuple(inner.bind(a, b, **params))
    if n == 3:
        return lambda a, b, c: tuple(inner.bind(a, b, c, **params))
    if n == 4:
        return lambda a, b, c, d: tuple(inner.bind(a, b, c, d, **params))
    if n == 6:
        return lambda a, b, c, d, e, f: tuple(inner.bind(a, b, c, d, e, f, **params))
    assert n == 7, f"an operation with {n} operands needs a line here"
    return lambda a, b, c, d, e, f, g: tuple(inner.bind(a, b, c, d, e, f, g, **params))


def _reduced_axes(factors: Factors, chosen: dict[str, MeshAxes]) -> MeshAxes:
    """The mesh axes over which partial results are to be combined."""
    return tuple(axis for factor in factors.reduced for axis in chosen.get(factor, ()))


def _common_mesh(avals: Sequence[Any]) -> Any:
    for a in avals:
        mesh = getattr(getattr(a, "sharding", None), "mesh", None)
        if mesh is not None and not mesh.empty:
            return mesh
    return None


def _result_aval(like: Any, shape: Shape, dtype: Any, mesh: Any, spec: Any) -> Any:
    sharding = NamedSharding(mesh, spec) if mesh is not None else None
    if sharding is None:
        sharding = like.sharding.update(spec=jax.sharding.PartitionSpec(*[None] * len(shape)))
    return like.update(shape=shape, dtype=np.dtype(dtype), weak_type=False, sharding=sharding)


def explicit_sharding(aval: Any) -> NamedSharding | None:
    """The sharding in a type on an explicit mesh, None elsewhere."""
    mesh = aval.sharding.mesh
    return aval.sharding if not mesh.empty and mesh.are_all_axes_explicit else None


def varying_axes(x: Any) -> frozenset[str]:
    """The manual mesh axes over which x varies, inside shard_map."""
    kind = jax.typeof(x)
    manual = getattr(kind, "manual_axis_type", None)
    return frozenset(getattr(manual, "varying", None) or getattr(kind, "vma", None) or ())


def _match_varying(operands: Sequence[jax.Array]) -> list[jax.Array]:
    """Casts operands to vary over the same manual mesh axes, as shard_map's types ask."""
    union = frozenset().union(*map(varying_axes, operands))
    return [
        x
        if varying_axes(x) == union
        else lax.pcast(x, tuple(sorted(union - varying_axes(x))), to="varying")
        for x in operands
    ]


def _requires_devices_during_lowering(primitive: Primitive) -> None:
    """custom_partitioning lowers with the devices at hand, which JAX must be told.

    The set that tells it is the one private name this package uses (jax 0.10 to 0.12). Without it a
    call on one device works all the same, and a sharded one fails with JAX's own assertion.
    """
    try:
        from jax._src import dispatch as jax_dispatch

        jax_dispatch.prim_requires_devices_during_lowering.add(primitive)
    except (ImportError, AttributeError):  # pragma: no cover
        pass
