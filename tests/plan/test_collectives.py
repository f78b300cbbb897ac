"""Collectives read out of optimised HLO, against counts and bytes worked out by hand."""

from __future__ import annotations

from score_jax.plan.programs import CollectiveTotal, count_collectives

HLO = """
  %dot = f32[8,128]{1,0:T(8,128)} dot(%a, %b), lhs_contracting_dims={1}
  %all-gather.3 = bf16[8,256]{1,0:T(8,128)(2,1)} all-gather(%p), channel_id=1, dimensions={1}
  %ar = (f32[4]{0}, f32[2,3]{1,0}) all-reduce(%x, %y), channel_id=2, to_apply=%add
  %ags = (bf16[4,16]{1,0}, bf16[16,16]{1,0}) all-gather-start(%q), channel_id=3
  %agd = bf16[16,16]{1,0} all-gather-done(%ags)
  %rs = f32[32]{0} reduce-scatter(%z), channel_id=4, to_apply=%add
  %cps = (s32[8]{0}, s32[8]{0}, u32[], u32[]) collective-permute-start(%i), channel_id=5
  %cpd = s32[8]{0} collective-permute-done(%cps)
  %fusion = f32[2] fusion(%all-gather.3), kind=kLoop, calls=%fused_all-reduce
"""


def test_each_kind_is_counted_with_what_a_device_has_afterwards() -> None:
  assert count_collectives(HLO) == [
    CollectiveTotal("all-gather", 2, 8 * 256 * 2 + 16 * 16 * 2),
    CollectiveTotal("all-reduce", 1, 4 * (4 + 2 * 3)),
    CollectiveTotal("reduce-scatter", 1, 4 * 32),
    CollectiveTotal("collective-permute", 1, 4 * 8),
  ]


def test_a_program_without_any_has_none() -> None:
  assert count_collectives("%dot = f32[8,128]{1,0} dot(%a, %b)") == []
