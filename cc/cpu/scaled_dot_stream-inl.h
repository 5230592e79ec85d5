// The product of a few rows of lhs with codes in logical order, which come from memory once, row by
// row of rhs: lanes are elements of a row. Lanes are added by halves at the end. Included by
// scaled_dot_kernel.cc only.
#pragma once

#include "cc/cpu/scaled_dot_gemm-inl.h"
#include "cc/cpu/scaled_dot_group-inl.h"

namespace jaxfp4::JAXFP4_TARGET {
namespace {

// A coding says what codes and scales are:
//   Math                 what words are and how they are multiplied
//   Decoder              a group of codes to vectors of words (scaled_dot_group-inl.h), and Pack, which
//                        makes words of floats
//   Scales               of a row: Next(), of a group, to the lanes of its elements, and Finished, the
//                        lanes of a row's sum that count
//   kDepth, kBits        of a group, of a code
template <class Coding>
class Stream {
 public:
  Stream(const ScaledDotProblem& p, Parallel& parallel)
      : p_(p),
        parallel_(parallel),
        spans_(p, p.depth),
        row_words_(RoundUp(p.depth, kDepth) / Math::kPerWord) {}

  // Whether two rows of lhs, or one, stay in the first-level cache.
  static bool InOnePart(const ScaledDotProblem& p) {
    return Min64(p.rows, 2) * RoundUp(p.depth, kDepth) / Math::kPerWord * 4 <= kPartBytes;
  }

  void Run() {
    const Scratch scratch(p_.batch * p_.rows * row_words_ * 4, p_);
    if (!scratch.ok()) return;
    lhs_ = scratch.As<uint32_t>();
    parallel_.For(p_.batch * p_.rows, 16384 / p_.depth + 1, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) PackRow(i, lhs_ + i * row_words_);
    });
    const int64_t groups = CeilDiv(p_.cols, kLanes);
    const int64_t grain = 200000 / (p_.depth * 16 * p_.rows) + 1;  // about 8 microseconds
    parallel_.For(p_.batch * groups, grain, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) Columns(i / groups, i % groups * kLanes);
    });
  }

 private:
  using Math = typename Coding::Math;
  using Decoder = typename Coding::Decoder;
  using Scales = typename Coding::Scales;
  static constexpr int kVectors = Decoder::kVectors;
  static constexpr int64_t kDepth = Coding::kDepth;
  static constexpr int64_t kBytes = kDepth * Coding::kBits / 8;
  static constexpr int64_t kAhead = 16384;      // bytes of codes, or a little more
  static constexpr int64_t kPartBytes = 32768;  // of lhs

  void PackRow(int64_t row, uint32_t* to) const {
    for (int64_t k = 0; k < p_.depth; k += kDepth, to += kVectors * kLanes) {
      alignas(64) float x[kDepth] = {};
      alignas(64) uint32_t words[kDepth];
      DecodeRow(p_.lhs, row, p_.depth, k, Min64(k + kDepth, p_.depth), x);
      Decoder::Pack(x, words);
      for (int v = 0; v < kVectors; ++v) {
        for (int i = 0; i < kLanes; ++i) to[v * kLanes + i] = words[Decoder::Index(v, i)];
      }
    }
  }

  void Columns(int64_t b, int64_t n) const {
    const FinalScale scale(p_, b, n, Scales::kUnit);
    for (int64_t m = 0; m < p_.rows;) {
      m += Outputs(p_.rows - m, b, m, n, scale);
    }
  }

  // Of the first 4, 2 or 1 of `count` rows of lhs; returns how many.
  template <int R = 4>
  int Outputs(int64_t count, int64_t b, int64_t m, int64_t n, const FinalScale& scale) const {
    if constexpr (R > 1) {
      if (count < R) return Outputs<R / 2>(count, b, m, n, scale);
    }
    const int64_t row = b * p_.rows + m, part = Part(R);
    F sums[R][kLanes] = {};
    for (int64_t k = 0; k < p_.depth; k += part) {
      const int64_t end = Min64(k + part, p_.depth);
      // Whole rows ahead, since the next ones continue at the same depth.
      const int64_t rows = CeilDiv(kAhead * 8, (end - k) * Coding::kBits);
      const int64_t ahead = rows * RowBytes(p_.rhs, p_.depth);
      for (int64_t i = 0; i < Min64(kLanes, p_.cols - n); ++i) {
        F sum[R];
        for (int r = 0; r < R; ++r) sum[r] = sums[r][i];
        Row<R>(row, b, n + i, k, end, ahead, sum);
        for (int r = 0; r < R; ++r) sums[r][i] = sum[r];
      }
    }
    for (int r = 0; r < R; ++r) scale.Store(p_, row + r, n, SumOfEach(sums[r]));
    return R;
  }

  // How much depth sixteen rows of rhs go through before any goes on, so that lhs stays in the cache.
  int64_t Part(int64_t rows) const {
    const int64_t step = spans_.blocked() ? spans_.step() : kDepth;
    const int64_t fit = kPartBytes / (rows * 4) * Math::kPerWord / step * step;
    return Min64(p_.depth, fit > step ? fit : step);
  }

  // Adds depth [k, end) of row n of entry b of rhs times R rows of lhs, by spans that have one float32
  // scale. Prefetches what is `ahead` bytes further.
  template <int R>
  JAXFP4_INLINE void Row(int64_t row, int64_t b, int64_t n, int64_t k, int64_t end, int64_t ahead,
                         F (&sum)[R]) const {
    const int64_t first = RowScaleIndex(p_.rhs, b, n);
    Scales scales(p_.rhs, first, k, end);
    const uint8_t* codes = RowData(p_.rhs, b * p_.cols + n, p_.depth) + k * Coding::kBits / 8;
    const uint32_t* x = lhs_ + row * row_words_ + k / Math::kPerWord;
    if (spans_.blocked()) {
      const int64_t step = spans_.step();
      SpanScales rhs(p_.rhs, first, k, step), lhs[R];
      for (int r = 0; r < R; ++r) {
        const int64_t lhs_first = HasOuterBlocks(p_.lhs) ? ScaleIndex(p_.lhs, row + r, 0) : 0;
        lhs[r] = SpanScales(p_.lhs, lhs_first, k, step);
      }
      for (; k < end; k += step) {
        F part[R];
        for (int r = 0; r < R; ++r) part[r] = Zero();
        const int64_t size = Min64(step, end - k);
        Span<R>(codes, ahead, x, size, scales, part);
        const F scale(rhs.Next());
        for (int r = 0; r < R; ++r) {
          sum[r] = Lanes::MulAdd(part[r] * F(lhs[r].Next()), scale, sum[r]);
        }
        codes += size * Coding::kBits / 8;
        x += size / Math::kPerWord;
      }
    } else {
      Span<R>(codes, ahead, x, end - k, scales, sum);
    }
    for (int r = 0; r < R; ++r) sum[r] = scales.Finished(sum[r]);
  }

  template <int R>
  JAXFP4_INLINE void Span(const uint8_t* codes, int64_t ahead, const uint32_t* x, int64_t left,
                          Scales& scales, F (&sum)[R]) const {
    const Decoder decoder;
    const auto add = [&](const uint8_t* group) __attribute__((always_inline)) {
      F values[kVectors];
      decoder(group, values);
      const auto scale = scales.Next();
      for (int r = 0; r < R; ++r) {  // a group's dots wait for no other group's
        F dot = Zero();
        for (int v = 0; v < kVectors; ++v) {
          const F word = Lanes::Float(LoadU32(x + r * row_words_ + v * kLanes));
          dot = Math::Dot(word, values[v], dot);
        }
        sum[r] = scale.MulAdd(dot, sum[r]);
      }
    };
    for (; left >= kDepth; left -= kDepth) {
      __builtin_prefetch(codes + ahead);
      add(codes);
      codes += kBytes;
      x += kVectors * kLanes;
    }
    if (left > 0) {
      uint8_t tail[kBytes] = {};
      memcpy(tail, codes, static_cast<size_t>(left * Coding::kBits / 8));
      add(tail);
    }
  }

  const ScaledDotProblem& p_;
  Parallel& parallel_;
  const Chunks spans_;
  const int64_t row_words_;
  uint32_t* lhs_ = nullptr;
};

// Decodes a chunk of 16 such rows for FloatScheme (scaled_dot_gemm-inl.h), a group at a time: rows
// of vectors, whose lanes then become words of depth.
template <class Math, class E, bool kPowers>
void PackGroups(const ScaledDotProblem& p, int64_t b, int64_t n, int64_t begin, int64_t end,
                uint32_t* panel, int64_t stride) {
  using Decoder = GroupDecoder<Math, E>;
  const Decoder decoder;
  const uint8_t *codes[kLanes], *scales[kLanes];
  for (int i = 0; i < kLanes; ++i) {
    const int64_t at = b * p.cols + Min64(n + i, p.cols - 1);
    codes[i] = RowData(p.rhs, at, p.depth) + begin * E::kBits / 8;
    PrefetchRow(p.rhs, at, p.depth, end, 2 * end - begin);
    if (kPowers) {
      scales[i] = static_cast<const uint8_t*>(p.rhs.scale) + ScaleIndex(p.rhs, at, begin);
    }
  }
  for (int64_t k = begin; k < end; k += kGroup, panel += kGroup / Math::kPerWord * stride) {
    const int64_t size = Min64(kGroup, end - k);
    alignas(64) uint32_t words[Decoder::kVectors][kLanes][kLanes];
    for (int i = 0; i < kLanes; ++i) {
      const uint8_t* group = codes[i];
      uint8_t tail[kGroupBytes<E>] = {};
      if (size < kGroup) {
        memcpy(tail, group, static_cast<size_t>(size * E::kBits / 8));
        group = tail;
      }
      codes[i] += kGroupBytes<E>;
      F values[Decoder::kVectors];
      decoder(group, values);
      if constexpr (kPowers) {
        const U powers = LanesOfBlocks(scales[i][0], size > 32 ? scales[i][1] : 0u);
        const Scale16<ScaleType::kE8M0> scale(powers & 255u);
        for (F& value : values) value = Math::Times(value, scale);
        scales[i] += 2;
      }
      for (int v = 0; v < Decoder::kVectors; ++v) StoreU32(Lanes::Bits(values[v]), words[v][i]);
    }
    for (int v = 0; v < Decoder::kVectors; ++v) {
      TransposeWords([&](int i) { return words[v][i]; }, panel,
                     [=](int lane) { return Decoder::Index(v, lane) * stride; });
    }
  }
}

// Whether groups are whole blocks of both operands.
inline bool HasGroups(const ScaledDotProblem& p) {
  const auto fits = [](const DotOperand& x) {
    return !HasOuterBlocks(x) || x.format.block_cols % kGroup == 0;
  };
  const bool powers = p.rhs.format.scale_type == ScaleType::kE8M0 && p.rhs.format.block_cols == 32;
  return fits(p.lhs) && fits(p.rhs) && (powers || HasOuterScale(p.rhs));
}

// kFew: the most rows of lhs that are few.
template <int64_t kFew, class Math, class E, bool kPowers>
void RunGroups(const ScaledDotProblem& p, Parallel& parallel) {
  if constexpr (kFew > 0) {
    if (p.rows <= kFew) return Stream<GroupCoding<Math, E, kPowers>>(p, parallel).Run();
  }
  Gemm<typename ManyRows<Math>::Scheme>(p, parallel, {{PackGroups<Math, E, kPowers>}}).Run();
}

template <int64_t kFew, class Math, class E>
void RunGroups(const ScaledDotProblem& p, Parallel& parallel) {
  if (HasOuterScale(p.rhs)) return RunGroups<kFew, Math, E, false>(p, parallel);
  RunGroups<kFew, Math, E, true>(p, parallel);
}

template <int64_t kFew, class Math>
void RunGroups(const ScaledDotProblem& p, Parallel& parallel) {
  switch (p.rhs.format.element) {
    case Element::kE2M1: return RunGroups<kFew, Math, E2M1>(p, parallel);
    case Element::kE2M3: return RunGroups<kFew, Math, E2M3>(p, parallel);
    case Element::kE3M2: return RunGroups<kFew, Math, E3M2>(p, parallel);
    case Element::kE4M3: return RunGroups<kFew, Math, E4M3>(p, parallel);
    case Element::kE5M2: return RunGroups<kFew, Math, E5M2>(p, parallel);
  }
}

}  // namespace
}  // namespace jaxfp4::JAXFP4_TARGET
