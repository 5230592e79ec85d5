// The product of many rows: rhs is decoded, a few vectors of columns and kChunk of depth at a time,
// into a panel that stays in the cache while all rows of lhs (decoded once) pass over it.
//
// An output is a sum over chunks of sums within chunks, in this order whatever its neighbours are:
// it depends on its row of lhs and its row of rhs alone. A scheme says what a chunk is made of:
//   kRows, kVectors      outputs of the micro-kernel: rows (fewer where few are left) by vectors of
//                        16 (of kRows rows at least kLeastVectors, where few columns are left)
//   kChunk               most depth of a chunk
//   kRowBytes            of a chunk of a row of lhs
//   kPanelBytes          of a chunk of kVectors * 16 rows of rhs
//   kUnit                what sums must be multiplied by
//   PackRow, PackVector  decode a chunk of a row of lhs, of 16 rows of rhs
//   kTakesFloats         whether lhs may be floats, and transposed; PackColumns decodes it then
//   Dot<R>               sums of a chunk for R rows
// Included by scaled_dot_kernel.cc only.
#pragma once

#include "cc/cpu/parallel.h"
#include "cc/cpu/scaled_dot_columns-inl.h"
#include "cc/cpu/scaled_dot_rows-inl.h"
#include "cc/cpu/scaled_dot_transpose-inl.h"

namespace jaxfp4::JAXFP4_TARGET {
namespace {


constexpr int64_t kWindowRows = 512; // of lhs, decoded at a time
constexpr int64_t kWindowBytes = int64_t{32} << 20;

// The end of the chunk that starts at k: chunks do not cross blocks of float32 scales.
class Chunks {
 public:
  Chunks(const ScaledDotProblem& p, int64_t most) : depth_(p.depth), step_(p.depth), most_(most) {
    Limit(p.lhs);
    Limit(p.rhs);
  }
  bool blocked() const { return blocked_; }
  int64_t step() const { return step_; }  // what chunks do not cross multiples of
  int64_t End(int64_t k) const { return Min64(k + most_, Min64(depth_, (k / step_ + 1) * step_)); }
  int64_t Count() const {
    return depth_ / step_ * CeilDiv(step_, most_) + CeilDiv(depth_ % step_, most_);
  }

 private:
  void Limit(const DotOperand& x) {
    if (!HasOuterBlocks(x)) return;
    int64_t a = step_, b = x.format.block_cols;
    while (b != 0) {
      const int64_t rest = a % b;
      a = b;
      b = rest;
    }
    step_ = a;
    blocked_ = true;
  }

  int64_t depth_, step_, most_;
  bool blocked_ = false;
};

// Codes of rhs that the next chunk of a panel is decoded from, prefetched while rows of lhs pass over
// the chunk before, some with each tile. (Sooner fetched, they would have left the cache again.)
class CodesAhead {
 public:
  // Depth [begin, end) of `count` rows from n on, of batch entry b, shared out over `tiles`.
  CodesAhead(const ScaledDotProblem& p, int64_t b, int64_t n, int64_t count, int64_t begin,
             int64_t end, int64_t tiles)
      : rows_(p.rhs.transposed ? 0 : count), step_(CeilDiv(count, tiles)) {
    const bool interleaved = p.rhs_layout == Layout::kInterleaved16;
    const int64_t row_bytes = RowBytes(p.rhs, p.depth), start = RowBytes(p.rhs, begin);
    chunk_bytes_ = RowBytes(p.rhs, end - begin);
    row_bytes_ = interleaved ? chunk_bytes_ : row_bytes;
    group_bytes_ = kLanes * row_bytes;
    codes_ = RowData(p.rhs, b * p.cols + n, p.depth) + (interleaved ? kLanes * start : start);
  }

  // A tile's share.
  JAXFP4_INLINE void Prefetch() {
    const int64_t stop = Min64(row_ + step_, rows_);
    for (; row_ < stop; ++row_) {
      const uint8_t* from = codes_ + row_ / kLanes * group_bytes_ + row_ % kLanes * row_bytes_;
      for (int64_t i = 0; i < chunk_bytes_; i += 64) __builtin_prefetch(from + i);
    }
  }

 private:
  int64_t rows_, step_, row_ = 0;
  int64_t chunk_bytes_, group_bytes_, row_bytes_;
  const uint8_t* codes_;
};

// ---- results

// Writes the first `count` lanes, or all, from element `at` of the output on.
template <class Memory>
JAXFP4_INLINE void StoreOutputs(const ScaledDotProblem& p, int64_t at, int64_t count, F y) {
  using Type = typename Memory::Type;
  Type* out = static_cast<Type*>(p.out) + at;
  if (count >= kLanes) return Memory::Store(y, out);
  Type some[kLanes];
  Memory::Store(y, some);
  memcpy(out, some, static_cast<size_t>(count) * sizeof(Type));
}

// The scales that multiply finished sums of a row of lhs, and of 16 rows of rhs.
struct RowFactors {
  float scale, global;

  RowFactors(const ScaledDotProblem& p, int64_t row)
      : scale(RowScale(p.lhs, row)), global(GlobalScale(p.lhs, row, p.batch * p.rows)) {}
};

struct FinalScale {
  F rhs;
  float unit, global;

  FinalScale() = default;
  FinalScale(const ScaledDotProblem& p, int64_t b, int64_t n, float unit) : unit(unit) {
    float scales[kLanes];
    for (int i = 0; i < kLanes; ++i) {
      scales[i] = RowScale(p.rhs, b * p.cols + Min64(n + i, p.cols - 1));
    }
    rhs = LoadF32(scales);
    global = GlobalScale(p.rhs, b, p.batch);
  }

  JAXFP4_INLINE F Apply(RowFactors lhs, F sum) const {
    return sum * F(unit) * F(lhs.scale) * rhs * F(lhs.global * global);
  }
  JAXFP4_INLINE void Store(const ScaledDotProblem& p, int64_t row, int64_t n, F sum) const {
    const F y = Apply(RowFactors(p, row), sum);
    WithDtype(p.out_dtype, [&](auto memory) {
      StoreOutputs<decltype(memory)>(p, row * p.out_stride + n, p.cols - n, y);
    });
  }
  // Of `count` rows of one batch entry, at most 16, to a transposed output. Sums of the next row
  // are `stride` further.
  void StoreColumns(const ScaledDotProblem& p, int64_t row, int64_t count, int64_t n,
                    const RowFactors* factors, const float* sums, int64_t stride) const {
    alignas(64) float tile[kLanes * kLanes] = {}, columns[kLanes * kLanes];
    for (int64_t i = 0; i < count; ++i) {
      StoreF32(Apply(factors[i], LoadF32(sums + i * stride)), tile + i * kLanes);
    }
    TransposeWords([&](int i) { return tile + i * kLanes; }, reinterpret_cast<uint32_t*>(columns),
                   [](int j) { return j * kLanes; });
    const int64_t entry = row / p.rows;
    for (int64_t j = 0; j < Min64(kLanes, p.cols - n); ++j) {
      const int64_t at = (entry * p.cols + n + j) * p.rows + row % p.rows;
      const F y = LoadF32(columns + j * kLanes);
      WithDtype(p.out_dtype, [&](auto memory) {
        StoreOutputs<decltype(memory)>(p, at, count, y);
      });
    }
  }
};

// ---- the product

// lhs rows [begin, end), counted through the batch, all of one batch entry or of several whole
// ones.
struct Window {
  int64_t batch_begin, batch_end;  // entries
  int64_t row_begin, row_end;      // of each entry
  int64_t rows() const { return row_end - row_begin; }
};

template <class Scheme>
class Gemm {
 public:
  Gemm(const ScaledDotProblem& p, Parallel& parallel, Scheme scheme = {})
      : p_(p),
        parallel_(parallel),
        scheme_(scheme),
        chunks_(p, Scheme::kChunk),
        chunk_count_(chunks_.Count()),
        row_bytes_(chunk_count_ * Scheme::kRowBytes) {}

  void Run() {
    const int64_t fit = kWindowBytes / row_bytes_ > 1 ? kWindowBytes / row_bytes_ : 1;
    rows_ = Min64(p_.rows, Min64(kWindowRows, RoundUp(fit, Scheme::kRows)));
    entries_ = rows_ < p_.rows || fit < rows_ ? 1 : Min64(p_.batch, fit / rows_);
    const int64_t windows = CeilDiv(p_.batch, entries_) * CeilDiv(p_.rows, rows_);
    if (windows < kManyWindows * parallel_.threads()) return RunWindows(0, windows);
    // A thread to each window: none waits for others in the middle of one.
    parallel_.For(windows, 1, [&](int64_t begin, int64_t end) {
      Serial alone;
      Gemm part(p_, alone, scheme_);
      part.rows_ = rows_;
      part.entries_ = entries_;
      part.RunWindows(begin, end);
    });
  }

 private:
  static constexpr int64_t kWidth = Scheme::kVectors * kLanes;
  static constexpr int64_t kManyWindows = 4;  // for each thread, so that all have as much to do

  void RunWindows(int64_t begin, int64_t end) {
    const int64_t rows = entries_ * rows_;
    const int64_t scales = HasOuterBlocks(p_.lhs) ? rows * chunk_count_ : 0;
    const Scratch scratch(rows * (row_bytes_ + int64_t{sizeof(RowFactors)}) +
                              scales * int64_t{sizeof(float)}, p_);
    if (!scratch.ok()) return;
    lhs_ = scratch.As<uint8_t>();
    factors_ = reinterpret_cast<RowFactors*>(lhs_ + rows * row_bytes_);
    if (scales > 0) lhs_scales_ = reinterpret_cast<float*>(factors_ + rows);
    const int64_t down = CeilDiv(p_.rows, rows_);
    for (int64_t i = begin; i < end; ++i) {
      const int64_t b = i / down * entries_, m = i % down * rows_;
      window_ = {b, Min64(b + entries_, p_.batch), m, Min64(m + rows_, p_.rows)};
      PackLhs();
      Multiply();
    }
  }

  // The decoded lhs is [entry][chunk][row][kRowBytes]: one stream for each panel that passes over.
  void PackLhs() {
    const int64_t together = p_.lhs.transposed ? kLanes : 1;
    const int64_t items = CeilDiv(window_.rows(), together);
    const int64_t n = (window_.batch_end - window_.batch_begin) * items;
    parallel_.For(n, Grain(together * p_.depth), [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        const int64_t entry = i / items, r = i % items * together;
        for (int64_t j = r; j < Min64(r + together, window_.rows()); ++j) {
          *Factors(entry, j) = RowFactors(p_, Row(entry, j));
          if (lhs_scales_ != nullptr) PackLhsScales(entry, j);
        }
        if constexpr (Scheme::kTakesFloats) {
          if (p_.lhs.transposed) {
            PackLhsColumns(entry, r, Min64(r + kLanes, window_.rows()));
            continue;
          }
        }
        PackLhsRow(entry, r);
      }
    });
  }

  // Of the operand, counted through its batch.
  int64_t Row(int64_t entry, int64_t r) const {
    return (window_.batch_begin + entry) * p_.rows + window_.row_begin + r;
  }

  void PackLhsRow(int64_t entry, int64_t r) const {
    const int64_t row = Row(entry, r);
    int64_t chunk = 0;
    for (int64_t k = 0; k < p_.depth; ++chunk) {
      const int64_t end = chunks_.End(k);
      scheme_.PackRow(p_, row, k, end, Lhs(entry, chunk, r));
      k = end;
    }
  }

  // A chunk is within one block.
  void PackLhsScales(int64_t entry, int64_t r) const {
    const float* scales = static_cast<const float*>(p_.lhs.scale) +
                          ScaleIndex(p_.lhs, Row(entry, r), 0);
    int64_t chunk = 0;
    for (int64_t k = 0; k < p_.depth; k = chunks_.End(k), ++chunk) {
      *LhsScale(entry, chunk, r) = scales[k / p_.lhs.format.block_cols];
    }
  }

  // Rows [r, r_end) of a lhs that has them as columns.
  void PackLhsColumns(int64_t entry, int64_t r, int64_t r_end) const {
    const int64_t row = Row(entry, r);
    int64_t chunk = 0;
    for (int64_t k = 0; k < p_.depth; ++chunk) {
      const int64_t end = chunks_.End(k);
      uint8_t* to[kLanes];
      for (int64_t i = r; i < r_end; ++i) to[i - r] = Lhs(entry, chunk, i);
      scheme_.PackColumns(p_, row, r_end - r, k, end, to);
      k = end;
    }
  }

  uint8_t* Lhs(int64_t entry, int64_t chunk, int64_t r) const {
    const int64_t rows = window_.rows();
    return lhs_ + entry * rows * row_bytes_ + (chunk * rows + r) * Scheme::kRowBytes;
  }

  float* LhsScale(int64_t entry, int64_t chunk, int64_t r) const {
    return lhs_scales_ + (entry * chunk_count_ + chunk) * window_.rows() + r;
  }

  RowFactors* Factors(int64_t entry, int64_t r) const {
    return factors_ + entry * window_.rows() + r;
  }

  // An item is a slice of the rows of one batch entry by kWidth columns.
  void Multiply() {
    const int64_t entries = window_.batch_end - window_.batch_begin;
    const int64_t tiles = CeilDiv(p_.cols, kWidth);
    const int64_t slice = SliceRows(entries * tiles);
    const int64_t slices = CeilDiv(window_.rows(), slice);
    const int64_t grain = Grain((slice + 16) * p_.depth * kWidth / 16);
    parallel_.For(entries * tiles * slices, grain, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        const int64_t r = i % slices * slice;
        MultiplyTile(i / slices / tiles, r, Min64(r + slice, window_.rows()),
                     i / slices % tiles * kWidth);
      }
    });
  }

  // Few tiles: share out the rows too, at the price of decoding rhs several times.
  int64_t SliceRows(int64_t tiles) const {
    const int64_t wanted = CeilDiv(2 * parallel_.threads(), tiles);
    const int64_t slice = RoundUp(CeilDiv(window_.rows(), wanted), Scheme::kRows);
    return slice < 64 ? RoundUp(64, Scheme::kRows) : slice;
  }

  // Items that take about 15 microseconds, at `steps` a nanosecond or so per item.
  static int64_t Grain(int64_t steps) { return 16384 / (steps + 1) + 1; }

  void MultiplyTile(int64_t entry, int64_t row_begin, int64_t row_end, int64_t n) const {
    alignas(64) uint8_t panel[Scheme::kPanelBytes];
    alignas(64) float sums[kWindowRows * kWidth];
    const int64_t b = window_.batch_begin + entry;
    RhsScales rhs_scales(p_, b, n);
    const int vectors = static_cast<int>(Min64(Scheme::kVectors, CeilDiv(p_.cols - n, kLanes)));
    FinalScale scales[Scheme::kVectors];
    for (int j = 0; j < vectors; ++j) {
      scales[j] = FinalScale(p_, b, n + j * kLanes, Scheme::kUnit);
    }
    int64_t chunk = 0;
    for (int64_t k = 0; k < p_.depth; ++chunk) {
      const int64_t end = chunks_.End(k);
      for (int j = 0; j < vectors; ++j) scheme_.PackVector(p_, b, n + j * kLanes, k, end, panel, j);
      rhs_scales.Set(k);
      const int64_t next = end % p_.depth;  // of this panel, or the first of the one after it
      CodesAhead ahead(p_, b, next == 0 ? n + kWidth : n, kWidth, next, chunks_.End(next),
                       CeilDiv(row_end - row_begin, Scheme::kRows));
      const bool stores = end == p_.depth && !p_.out_transposed;
      for (int64_t r = row_begin; r < row_end;) {
        ahead.Prefetch();
        float* to = sums + (r - row_begin) * kWidth;
        const int64_t row = Row(entry, r);
        if (stores) PrefetchOutputs(row, n);
        const int rows =
            AddChunk(row_end - r, vectors,
                     {Lhs(entry, chunk, r), panel, to, end - k, chunk == 0,
                      lhs_scales_ == nullptr ? nullptr : LhsScale(entry, chunk, r),
                      rhs_scales.values()});
        if (stores) StoreRows(row, rows, n, vectors, Factors(entry, r), scales, to);
        r += rows;
      }
      k = end;
    }
    if (!p_.out_transposed) return;
    for (int64_t r = row_begin; r < row_end; r += kLanes) {
      const int64_t row = Row(entry, r), count = Min64(kLanes, row_end - r);
      const float* from = sums + (r - row_begin) * kWidth;
      for (int j = 0; j < vectors; ++j) {
        scales[j].StoreColumns(p_, row, count, n + j * kLanes, Factors(entry, r),
                               from + j * kLanes, kWidth);
      }
    }
  }

  // Of the tile at hand, while it is multiplied.
  JAXFP4_INLINE void PrefetchOutputs(int64_t row, int64_t n) const {
    const int64_t size = p_.out_dtype == Dtype::kF32 ? 4 : 2;
    const char* out = static_cast<const char*>(p_.out) + (row * p_.out_stride + n) * size;
    for (int r = 0; r < Scheme::kRows; ++r, out += p_.out_stride * size) {
      for (int64_t i = 0; i < kWidth * size; i += 64) __builtin_prefetch(out + i, 1);
    }
  }

  // Of whole vectors, whose sums only global scales multiply.
  void StorePlainRows(int64_t row, int rows, int64_t n, const RowFactors* factors, float global,
                      const float* sums) const {
    WithDtype(p_.out_dtype, [&](auto memory) {
      using Memory = decltype(memory);
      auto* out = static_cast<typename Memory::Type*>(p_.out) + row * p_.out_stride + n;
      for (int r = 0; r < rows; ++r, out += p_.out_stride, sums += kWidth) {
        const F scale(factors[r].global * global);
#pragma GCC unroll 3
        for (int j = 0; j < Scheme::kVectors; ++j) {
          Memory::Store(LoadF32(sums + j * kLanes) * F(Scheme::kUnit) * scale, out + j * kLanes);
        }
      }
    });
  }

  // Right after the sums of these rows, so that stores to far lines do not come all at once.
  void StoreRows(int64_t row, int rows, int64_t n, int vectors, const RowFactors* factors,
                 const FinalScale* scales, const float* sums) const {
    const bool plain = n + kWidth <= p_.cols && !HasOuterScale(p_.lhs) && !HasOuterScale(p_.rhs);
    if (plain) return StorePlainRows(row, rows, n, factors, scales[0].global, sums);
    WithDtype(p_.out_dtype, [&](auto memory) {
      for (int r = 0; r < rows; ++r, sums += kWidth) {
        const int64_t at = (row + r) * p_.out_stride + n;
        for (int j = 0; j < vectors; ++j) {
          const F y = scales[j].Apply(factors[r], LoadF32(sums + j * kLanes));
          StoreOutputs<decltype(memory)>(p_, at + j * kLanes, p_.cols - n - j * kLanes, y);
        }
      }
    });
  }

  // What multiplies the sums of a chunk, of each row of rhs of a panel: float32 scales of blocks.
  class RhsScales {
   public:
    RhsScales(const ScaledDotProblem& p, int64_t b, int64_t n) : x_(p.rhs) {
      if (!HasOuterBlocks(x_)) return;
      for (int64_t i = 0; i < kWidth; ++i) {
        first_[i] = static_cast<const float*>(x_.scale) +
                    RowScaleIndex(x_, b, Min64(n + i, p.cols - 1));
      }
    }
    void Set(int64_t k) {
      if (!HasOuterBlocks(x_)) return;
      const int64_t block = k / x_.format.block_cols;
      for (int64_t i = 0; i < kWidth; ++i) values_[i] = first_[i][block];
    }
    const float* values() const { return HasOuterBlocks(x_) ? values_ : nullptr; }

   private:
    const DotOperand& x_;
    const float* first_[kWidth];
    alignas(64) float values_[kWidth];
  };

  struct Tile {
    const uint8_t* lhs;
    const uint8_t* panel;
    float* sums;
    int64_t size;
    bool is_first;           // of the chunks
    const float* lhs_scale;  // of each row, or null
    const float* rhs_scale;  // of each column, or null
  };

  static constexpr int Fewer(int rows) { return rows == 6 ? 4 : rows / 2; }

  template <int R, int V, class Body>
  static JAXFP4_INLINE void EachSum(const Body& body) {
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
#pragma GCC unroll 3
      for (int j = 0; j < V; ++j) body(r, j);
    }
  }

  // Of the first kRows of `rows` rows, or fewer; returns how many.
  template <int R = Scheme::kRows, int V = Scheme::kVectors>
  int AddChunk(int64_t rows, int vectors, const Tile& t) const {
    if constexpr (R > 1) {
      if (rows < R || (R == 6 && rows == 8)) return AddChunk<Fewer(R)>(rows, vectors, t);
    }
    if constexpr (R == Scheme::kRows && V > Scheme::kLeastVectors) {
      if (vectors < V) return AddChunk<R, V - 1>(rows, vectors, t);
    }
    F sum[R][V];
    Scheme::template Dot<R>(t.lhs, t.panel, t.size, sum);
    // All loops over sums are unrolled, or they would go through memory.
    if (t.lhs_scale != nullptr) {
      EachSum<R, V>([&](int r, int j) { sum[r][j] = sum[r][j] * F(t.lhs_scale[r]); });
    }
    if (t.rhs_scale != nullptr) {
      EachSum<R, V>([&](int r, int j) {
        sum[r][j] = sum[r][j] * LoadF32(t.rhs_scale + j * kLanes);
      });
    }
    if (t.is_first) {
      EachSum<R, V>([&](int r, int j) { StoreF32(sum[r][j], t.sums + r * kWidth + j * kLanes); });
    } else {
      EachSum<R, V>([&](int r, int j) {
        float* to = t.sums + r * kWidth + j * kLanes;
        StoreF32(LoadF32(to) + sum[r][j], to);
      });
    }
    return R;
  }

  const ScaledDotProblem& p_;
  Parallel& parallel_;
  const Scheme scheme_;
  const Chunks chunks_;
  const int64_t chunk_count_, row_bytes_;
  int64_t rows_, entries_;  // of a window, at most
  uint8_t* lhs_ = nullptr;         // a window of it, decoded
  RowFactors* factors_ = nullptr;  // of its rows
  float* lhs_scales_ = nullptr;    // of its chunks, where blocks have scales that multiply sums
  Window window_{};
};

// ---- schemes of floats: a word is a float, or a pair of bfloat16

struct Float32 {
  static constexpr int kPerWord = 1;
  static constexpr int64_t kChunk = 256;
  static JAXFP4_INLINE F Dot(F a, F b, F sum) { return Lanes::MulAdd(a, b, sum); }
  static JAXFP4_INLINE U Word(F even, F) { return Lanes::Bits(even); }
  template <class Scale>
  static JAXFP4_INLINE F Times(F word, const Scale& scale) {
    return scale.Times(word);
  }
  static void Pack(const float* x, int64_t size, uint32_t* words) {
    memcpy(words, x, static_cast<size_t>(size) * sizeof(float));
  }
};

// For operands that bfloat16 holds exactly.
#if defined(__AVX512BF16__) || defined(__ARM_FEATURE_BF16_VECTOR_ARITHMETIC)
struct BFloat16 {
  static constexpr int kPerWord = 2;
  static constexpr int64_t kChunk = 256;
  template <class Scale>
  static JAXFP4_INLINE F Times(F word, const Scale& scale) {
    const U bits = Lanes::Bits(word);
    return Lanes::Float(Word(scale.Times(Lanes::Float(bits << 16)),
                             scale.Times(Lanes::Float(bits & 0xffff0000u))));
  }
#if defined(__AVX512BF16__)
  static JAXFP4_INLINE F Dot(F a, F b, F sum) {
    return _mm512_dpbf16_ps(sum.v, (__m512bh)a.v, (__m512bh)b.v);
  }
  static JAXFP4_INLINE U Word(F even, F odd) {
    return _mm512_mask_blend_epi16(0xaaaaaaaa, _mm512_srli_epi32(Lanes::Bits(even).v, 16),
                                   Lanes::Bits(odd).v);
  }
  static void Pack(const float* x, int64_t size, uint32_t* words) {
    for (int64_t k = 0; k < size; k += 2 * kLanes) {
      const __m512bh pairs =
          _mm512_cvtne2ps_pbh(_mm512_loadu_ps(x + k + kLanes), _mm512_loadu_ps(x + k));
      _mm512_storeu_si512(words + k / 2, (__m512i)pairs);
    }
  }
#else
  static JAXFP4_INLINE F Dot(F a, F b, F sum) {
    return Each<F>(
        [](auto s, auto x, auto y) {
          return vbfdotq_f32(s, vreinterpretq_bf16_f32(x), vreinterpretq_bf16_f32(y));
        },
        sum, a, b);
  }
  static JAXFP4_INLINE U Word(F even, F odd) {
    return Each<U>([](auto x, auto y) { return vsriq_n_u32(y, x, 16); }, Lanes::Bits(even),
                   Lanes::Bits(odd));
  }
  static void Pack(const float* x, int64_t size, uint32_t* words) {
    for (int64_t k = 0; k < size; k += 8) {
      const uint16x8_t halves = UpperHalves(vld1q_f32(x + k), vld1q_f32(x + k + 4));
      vst1q_u32(words + k / 2, vreinterpretq_u32_u16(halves));
    }
  }
#endif
};
#endif

// Decodes a chunk of any 16 rows of rhs, row by row: words of depth `stride` apart, in them 16
// rows.
template <class Math>
void PackAny(const ScaledDotProblem& p, int64_t b, int64_t n, int64_t begin, int64_t end,
             uint32_t* panel, int64_t stride) {
  constexpr int64_t kWords = Math::kChunk / Math::kPerWord;
  alignas(64) float row[Math::kChunk];
  alignas(64) uint32_t words[kLanes * kWords];
  const int64_t size = RoundUp(end - begin, 2 * kLanes);
  for (int i = 0; i < kLanes; ++i) {
    const int64_t at = b * p.cols + Min64(n + i, p.cols - 1);
    DecodeRow(p.rhs, at, p.depth, begin, end, row);
    Math::Pack(row, size, words + i * kWords);
  }
  for (int64_t w = 0; w < size / Math::kPerWord; w += kLanes) {
    TransposeWords([&](int i) { return words + i * kWords + w; }, panel + w * stride,
                   [=](int j) { return j * stride; });
  }
}

template <class Math>
struct FloatScheme {
  using PackRhs = void (*)(const ScaledDotProblem& p, int64_t b, int64_t n, int64_t begin,
                           int64_t end, uint32_t* panel, int64_t stride);
  PackRhs pack_rhs;

#if defined(__AVX512F__)
  static constexpr int kRows = 8, kVectors = 3;
#elif defined(__AVX2__)
  static constexpr int kRows = 6, kVectors = 1;
#else
  static constexpr int kRows = 4, kVectors = 1;
#endif
  static constexpr int kLeastVectors = 1;
  static constexpr int64_t kChunk = Math::kChunk;
  static constexpr int64_t kWords = kChunk / Math::kPerWord;
  static constexpr int64_t kRowBytes = kWords * 4;
  static constexpr int64_t kPanelBytes = kWords * kVectors * 64;

  static constexpr float kUnit = 1.0f;
  static constexpr bool kTakesFloats = true;

  static void PackRow(const ScaledDotProblem& p, int64_t row, int64_t begin, int64_t end,
                      uint8_t* to) {
    alignas(64) float x[kChunk];
    DecodeRow(p.lhs, row, p.depth, begin, end, x);
    Math::Pack(x, RoundUp(end - begin, 2 * kLanes), reinterpret_cast<uint32_t*>(to));
  }

  static void PackColumns(const ScaledDotProblem& p, int64_t row, int64_t count, int64_t begin,
                          int64_t end, uint8_t* const* to) {
    alignas(64) float x[kLanes * kChunk];
    DecodeColumns(p, row, count, begin, end, x, kChunk);
    const int64_t size = RoundUp(end - begin, 2 * kLanes);
    for (int64_t i = 0; i < count; ++i) {
      Math::Pack(x + i * kChunk, size, reinterpret_cast<uint32_t*>(to[i]));
    }
  }

  void PackVector(const ScaledDotProblem& p, int64_t b, int64_t n, int64_t begin, int64_t end,
                  uint8_t* panel, int j) const {
    uint32_t* to = reinterpret_cast<uint32_t*>(panel) + j * kLanes;
    pack_rhs(p, b, n, begin, end, to, kVectors * kLanes);
  }

  template <int R, int V>
  static JAXFP4_INLINE void Dot(const uint8_t* lhs, const uint8_t* panel, int64_t size,
                                F (&sum)[R][V]) {
    const uint32_t* a = reinterpret_cast<const uint32_t*>(lhs);
    const uint32_t* b = reinterpret_cast<const uint32_t*>(panel);
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
#pragma GCC unroll 3
      for (int j = 0; j < V; ++j) sum[r][j] = Zero();
    }
    const int64_t words = CeilDiv(size, Math::kPerWord);
    for (int64_t w = 0; w < words; ++w, b += kVectors * kLanes) {
      __builtin_prefetch(lhs + R * kRowBytes + w * R * 4);  // the next rows
      F v[V];
      for (int j = 0; j < V; ++j) v[j] = Lanes::Float(LoadU32(b + j * kLanes));
#pragma GCC unroll 8
      for (int r = 0; r < R; ++r) {
        const F x = Lanes::Float(U(a[r * kWords + w]));
        for (int j = 0; j < V; ++j) sum[r][j] = Math::Dot(x, v[j], sum[r][j]);
      }
    }
  }
};

// The scheme for many rows; a target may have its own.
template <class Math>
struct ManyRows {
  using Scheme = FloatScheme<Math>;
};

}  // namespace
}  // namespace jaxfp4::JAXFP4_TARGET
