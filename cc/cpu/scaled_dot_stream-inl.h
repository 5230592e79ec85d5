// The product of a few rows of lhs with any codes in logical order, which come from memory once,
// row by row of rhs: lanes are elements of a row.
//
// Elements are taken kGroup at a time; a lane adds those of one sixteen among them, so that a
// vector of block scales fits. Lanes are added by halves at the end. Included by
// scaled_dot_kernel.cc only.
#pragma once

#include "cc/cpu/scaled_dot_gemv-inl.h"

namespace jaxfp4::JAXFP4_TARGET {
namespace {

constexpr int kGroup = 64;

// 64 codes at `codes`, from a buffer of zeros at the end of a row.
template <class E>
class GroupCodes {
 public:
  static constexpr int kBytes = kGroup * E::kBits / 8;

  JAXFP4_INLINE GroupCodes(const uint8_t* row, int64_t k, int64_t depth)
      : codes_(row + k * E::kBits / 8) {
    if (k + kGroup <= depth) return;
    memset(tail_, 0, sizeof(tail_));
    memcpy(tail_, codes_, static_cast<size_t>((depth - k) * E::kBits / 8));
    codes_ = tail_;
  }
  JAXFP4_INLINE const uint8_t* data() const { return codes_; }

 private:
  const uint8_t* codes_;
  uint8_t tail_[kBytes];
};

// Lane 4 i + j of vector v holds elements of sixteen i: element Index(v, i, j), or the pair from
// there.
#if defined(__AVX512VBMI__) && defined(__AVX512BF16__)

// As bfloat16, by looking up both of its bytes.
template <class Math, class E>
class GroupDecoder {
 public:
  static constexpr int Index(int v, int i, int j) {
    return Math::kPerWord == 2 ? 16 * i + 8 * v + 2 * j : 16 * i + 8 * (v / 2) + 2 * j + v % 2;
  }

  GroupDecoder() {
    alignas(64) uint8_t bytes[2][128];
    for (uint32_t code = 0; code < 128; ++code) {
      const uint32_t mask = (1u << E::kBits) - 1;
      const float value = Decode<E, ScalarLanes>(code & mask);
      const uint32_t bits = ScalarLanes::Bits(value) >> 16;
      bytes[0][code] = static_cast<uint8_t>(bits);
      bytes[1][code] = static_cast<uint8_t>(bits >> 8);
    }
    for (int i = 0; i < 4; ++i) table_[i] = _mm512_load_si512(bytes[i / 2] + 64 * (i % 2));
  }

  JAXFP4_INLINE void operator()(const GroupCodes<E>& codes, F* values) const {
    const __m512i c = Bytes(codes.data());
    const __m512i low = _mm512_permutex2var_epi8(table_[0], c, table_[1]);
    const __m512i magnitude = _mm512_permutex2var_epi8(table_[2], c, table_[3]);
    const __m512i high =  // the sign of 8-bit codes is not in the table
        _mm512_ternarylogic_epi32(magnitude, c, _mm512_set1_epi8(-128), 0xf8);
    const __m512i pairs[2] = {_mm512_unpacklo_epi8(low, high), _mm512_unpackhi_epi8(low, high)};
    if constexpr (Math::kPerWord == 2) {
      values[0] = Lanes::Float(pairs[0]);
      values[1] = Lanes::Float(pairs[1]);
    } else {
      for (int i = 0; i < 2; ++i) {
        values[2 * i] = Lanes::Float(U(pairs[i]) << 16);
        values[2 * i + 1] = Lanes::Float(U(pairs[i]) & 0xffff0000u);
      }
    }
  }

 private:
  static JAXFP4_INLINE __m512i Bytes(const uint8_t* codes) {
    if constexpr (E::kBits == 8) {
      return _mm512_loadu_si512(codes);
    } else if constexpr (E::kBits == 4) {
      const __m512i wide =
          _mm512_cvtepu8_epi16(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(codes)));
      const __m512i both = _mm512_or_si512(wide, _mm512_slli_epi16(wide, 4));
      return _mm512_and_si512(both, _mm512_set1_epi8(15));
    } else {  // six bytes to each eight, then shifts of 0, 6, ... 42
      const __m512i spread = _mm512_set_epi8(
          0, 0, 47, 46, 45, 44, 43, 42, 0, 0, 41, 40, 39, 38, 37, 36, 0, 0, 35, 34, 33, 32, 31, 30,
          0, 0, 29, 28, 27, 26, 25, 24, 0, 0, 23, 22, 21, 20, 19, 18, 0, 0, 17, 16, 15, 14, 13, 12,
          0, 0, 11, 10, 9, 8, 7, 6, 0, 0, 5, 4, 3, 2, 1, 0);
      const __m512i packed = _mm512_maskz_loadu_epi8((uint64_t{1} << 48) - 1, codes);
      const __m512i shifted = _mm512_multishift_epi64_epi8(
          _mm512_set1_epi64(0x2a241e18120c0600), _mm512_permutexvar_epi8(spread, packed));
      return _mm512_and_si512(shifted, _mm512_set1_epi8(63));
    }
  }

  __m512i table_[4];
};

#else

template <class Math, class E>
class GroupDecoder {
 public:
  static constexpr int Index(int v, int i, int j) { return 16 * i + 4 * v + j; }

  JAXFP4_INLINE void operator()(const GroupCodes<E>& codes, F* values) const {
    uint8_t unpacked[kGroup];
    const uint8_t* bytes = codes.data();
    if constexpr (E::kBits != 8) {
      for (int i = 0; i < 4; ++i) {
        StoreBytes(LoadCodes<E::kBits>(bytes + i * kLanes * E::kBits / 8), unpacked + i * kLanes);
      }
      bytes = unpacked;
    }
    for (int v = 0; v < 4; ++v) {
      uint8_t lanes[kLanes];
      for (int i = 0; i < 4; ++i) memcpy(lanes + 4 * i, bytes + 16 * i + 4 * v, 4);
      if constexpr (E::kBits == 8) {
        values[v] = LoadValues<E>(lanes);
      } else {
        values[v] = DecodeCodes<E>(LoadBytes(lanes));
      }
    }
  }
};

#endif

template <class Math, class E>
class Stream {
 public:
  Stream(const ScaledDotProblem& p, Parallel& parallel)
      : p_(p),
        parallel_(parallel),
        type_(p.rhs.format.scale_type),
        lhs_blocked_(HasOuterBlocks(p.lhs)),
        row_words_(RoundUp(p.depth, kGroup) / Math::kPerWord),
        scales_per_group_(ScalesPerGroup(p.rhs)),
        groups_per_scale_(GroupsPerScale(p.rhs)) {}

  void Run() {
    const Scratch scratch(p_.batch * p_.rows * row_words_ * 4, p_);
    if (!scratch.ok()) return;
    lhs_ = scratch.As<uint32_t>();
    parallel_.For(p_.batch * p_.rows, 16384 / p_.depth + 1, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) PackRow(i, lhs_ + i * row_words_);
    });
    const int64_t groups = CeilDiv(p_.cols, kLanes);
    const int64_t grain = 400000 / (p_.depth * 16 * p_.rows) + 1;  // about 15 microseconds
    parallel_.For(p_.batch * groups, grain, [&](int64_t begin, int64_t end) {
      const GroupDecoder<Math, E> decoder;
      for (int64_t i = begin; i < end; ++i) Columns(i / groups, i % groups * kLanes, decoder);
    });
  }

 private:
  static constexpr int kVectors = kGroup / kLanes / Math::kPerWord;

  void PackRow(int64_t row, uint32_t* to) const {
    for (int64_t k = 0; k < p_.depth; k += kGroup, to += kVectors * kLanes) {
      alignas(64) float x[kGroup] = {};
      alignas(64) uint32_t words[kGroup];
      DecodeRow(p_.lhs, row, p_.depth, k, Min64(k + kGroup, p_.depth), x);
      Math::Pack(x, kGroup, words);
      for (int v = 0; v < kVectors; ++v) {
        for (int lane = 0; lane < kLanes; ++lane) {
          const int from = GroupDecoder<Math, E>::Index(v, lane / 4, lane % 4);
          to[v * kLanes + lane] = words[from / Math::kPerWord];
        }
      }
    }
  }

  void Columns(int64_t b, int64_t n, const GroupDecoder<Math, E>& decoder) const {
    const FinalScale scale(p_, b, n, 1.0f);
    for (int64_t m = 0; m < p_.rows;) {
      m += Outputs(p_.rows - m, b, m, n, decoder, scale);
    }
  }

  // Of the first 4, 2 or 1 of `count` rows of lhs; returns how many.
  template <int R = 4>
  int Outputs(int64_t count, int64_t b, int64_t m, int64_t n, const GroupDecoder<Math, E>& decoder,
               const FinalScale& scale) const {
    if constexpr (R > 1) {
      if (count < R) return Outputs<R / 2>(count, b, m, n, decoder, scale);
    }
    const int64_t row = b * p_.rows + m;
    F sums[R][kLanes];
    for (int64_t i = 0; i < kLanes; ++i) {
      F sum[R];
      for (int r = 0; r < R; ++r) sum[r] = Zero();
      if (n + i < p_.cols) Row<R>(row, b * p_.cols + n + i, decoder, sum);
      for (int r = 0; r < R; ++r) sums[r][i] = sum[r];
    }
    for (int r = 0; r < R; ++r) scale.Store(p_, row + r, n, SumOfEach(sums[r]));
    return R;
  }

  // Row `at` of rhs times R rows of lhs.
  template <int R>
  JAXFP4_INLINE void Row(int64_t row, int64_t at, const GroupDecoder<Math, E>& decoder,
                         F (&sum)[R]) const {
    const uint8_t* codes = RowData(p_.rhs, at, p_.depth);
    const uint32_t* x = lhs_ + row * row_words_;
    int64_t scale = ScaleIndex(p_.rhs, at, 0), groups = 0;
    for (int64_t k = 0; k < p_.depth; k += kGroup, x += kVectors * kLanes) {
      __builtin_prefetch(codes + k * E::kBits / 8 + 4096);
      F values[kVectors];
      decoder(GroupCodes<E>(codes, k, p_.depth), values);
      F dot[R];
      for (int r = 0; r < R; ++r) {
        dot[r] = Zero();
        for (int v = 0; v < kVectors; ++v) {
          const U word = LoadU32(x + r * row_words_ + v * kLanes);
          dot[r] = Math::Dot(Lanes::Float(word), values[v], dot[r]);
        }
        if (lhs_blocked_) dot[r] = dot[r] * F(OuterScale(p_.lhs, row + r, k));
      }
      AddScaled<R>(dot, scale, p_.depth - k, sum);
      scale += scales_per_group_;
      if (++groups == groups_per_scale_) {
        groups = 0;
        ++scale;
      }
    }
  }

  // `depth` is what is left of the row, with the group.
  template <int R>
  JAXFP4_INLINE void AddScaled(const F (&dot)[R], int64_t scale, int64_t depth, F (&sum)[R]) const {
    if (type_ == ScaleType::kE8M0) {
      const Scale16<ScaleType::kE8M0> s(LaneScales(scale, depth));
      for (int r = 0; r < R; ++r) sum[r] = s.MulAdd(dot[r], sum[r]);
    } else if (type_ == ScaleType::kE4M3) {
      const Scale16<ScaleType::kE4M3> s(LaneScales(scale, depth));
      for (int r = 0; r < R; ++r) sum[r] = s.MulAdd(dot[r], sum[r]);
    } else if (groups_per_scale_ == 0) {
      for (int r = 0; r < R; ++r) sum[r] = sum[r] + dot[r];
    } else {
      const F s(static_cast<const float*>(p_.rhs.scale)[scale]);
      for (int r = 0; r < R; ++r) sum[r] = Lanes::MulAdd(dot[r], s, sum[r]);
    }
  }

  // The codes of the scales of each of the four sixteens of a group.
  JAXFP4_INLINE U LaneScales(int64_t scale, int64_t depth) const {
    const uint8_t* at = static_cast<const uint8_t*>(p_.rhs.scale) + scale;
    alignas(64) static constexpr uint32_t kSixteenth[kLanes] = {0,  0,  0,  0,  16, 16, 16, 16,
                                                                32, 32, 32, 32, 48, 48, 48, 48};
    const U sixteenth = LoadU32(kSixteenth);
    if (scales_per_group_ == 2) {
      const uint32_t second = depth > kGroup / 2 ? at[1] : 0u;
      return (U(at[0] | second << 8) >> ((sixteenth >> 2) & 8u)) & 255u;
    }
    if (scales_per_group_ == 4) {
      uint32_t word = 0;
      memcpy(&word, at, depth >= kGroup ? 4 : static_cast<size_t>(depth / 16));
      return (U(word) >> (sixteenth >> 1)) & 255u;
    }
    return U(uint32_t{*at});
  }

  // How scales advance: several a group, or one for several groups; neither if a row has one.
  static int64_t ScalesPerGroup(const DotOperand& x) {
    return x.scale_cols == 1 || x.format.block_cols >= kGroup ? 0 : kGroup / x.format.block_cols;
  }
  static int64_t GroupsPerScale(const DotOperand& x) {
    return x.scale_cols == 1 ? 0 : x.format.block_cols / kGroup;
  }

  const ScaledDotProblem& p_;
  Parallel& parallel_;
  const ScaleType type_;
  const bool lhs_blocked_;
  const int64_t row_words_, scales_per_group_, groups_per_scale_;
  uint32_t* lhs_ = nullptr;
};

// Whether blocks of both operands fall into groups.
inline bool Streams(const ScaledDotProblem& p) {
  const BlockFormat& format = p.rhs.format;
  const int64_t block = p.rhs.scale_cols == 1 ? kGroup : format.block_cols;
  const bool fits = format.scale_type == ScaleType::kFloat32
                        ? block % kGroup == 0
                        : block == 16 || block == 32 || block % kGroup == 0;
  return fits && (!HasOuterBlocks(p.lhs) || p.lhs.format.block_cols % kGroup == 0);
}

template <class Math>
void RunStream(const ScaledDotProblem& p, Parallel& parallel) {
  switch (p.rhs.format.element) {
    case Element::kE2M1: return Stream<Math, E2M1>(p, parallel).Run();
    case Element::kE2M3: return Stream<Math, E2M3>(p, parallel).Run();
    case Element::kE3M2: return Stream<Math, E3M2>(p, parallel).Run();
    case Element::kE4M3: return Stream<Math, E4M3>(p, parallel).Run();
    case Element::kE5M2: return Stream<Math, E5M2>(p, parallel).Run();
  }
}

}  // namespace
}  // namespace jaxfp4::JAXFP4_TARGET
