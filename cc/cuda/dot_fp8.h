// scaled_dot on sm_90a by e4m3 warpgroup matrix instructions: rows of e4m3 with float32 scales, by
// weights of the same kind, or of MXFP4, decoded to e4m3 exactly.
//
// The tensor cores keep about 14 bits of these sums. So each slab, 128 of the depth, is summed by
// itself, and its sum, times the scales of the slab, added to the output's in float32.
//
// The producer copies rows, codes and float32 scales, several stages ahead; MXFP4's scales it turns
// into tables and bases, and where a row's scales are too far apart for one table, it fills another
// stage with the same slab. docs/dev/cuda_kernels.md draws the layouts.
#pragma once

#include "cc/cuda/dot_warpgroups.h"
#include "cc/cuda/fp8_decode.h"

namespace jaxfp4::cuda {

// Registers of a thread: three warpgroups, or five.
template <int kRows>
struct Fp8Tile : WarpgroupTile<kRows, 1, 4> {
  static constexpr int kMultiplierRegisters = 104, kProducerRegisters = 64;
  static constexpr int kStartRegisters = 96;
  static constexpr bool kJoins = true;
};
template <>
struct Fp8Tile<128> : WarpgroupTile<128, 2, 2> {
  static constexpr int kMultiplierRegisters = 232, kProducerRegisters = 40;
  static constexpr int kStartRegisters = 168;
  static constexpr bool kJoins = false;
};

template <int kRows, bool kMx>
struct Fp8Shape : Fp8Tile<kRows> {
  using Tile = Fp8Tile<kRows>;
  static_assert(Tile::kMultipliers * Tile::kMultiplierRegisters + Tile::kProducerRegisters <=
                (Tile::kMultipliers + 1) * Tile::kStartRegisters);

  // A stage: rows of lhs, codes of rhs, their tables, factors of columns and rows, whether it is
  // its tile's last.
  static constexpr int kCodeRow = kMx ? 64 : 128;
  static constexpr int kTableRow = kMx ? 4 * sizeof(Fp8Table) : 0;
  static constexpr int kCodes = kRows * 128;
  static constexpr int kTables = kCodes + Tile::kCols * kCodeRow;
  static constexpr int kColFactors = kTables + Tile::kCols * kTableRow;
  static constexpr int kRowFactors = kColFactors + Tile::kCols * 4;
  static constexpr int kIsLast = kRowFactors + kRows * 4;
  static constexpr int kStageBytes = (kIsLast + 4 + 1023) / 1024 * 1024;
  static constexpr int kTableBytes = kMx ? Fp8Window::kTables * sizeof(Fp8Table) : 0;

  // As many stages as fit; all but two are on their way.
  static constexpr int kMost = 227 * 1024;
  static constexpr int kStages = (kMost - Tile::kAlignment - kTableBytes) / (kStageBytes + 16);
  static constexpr int kAhead = kStages - 2;
  static constexpr int kSharedBytes = Tile::SharedBytes(kStages, kStageBytes, kTableBytes);
  static_assert(kStages >= 4);

  // Sixteen-byte pieces, placed so that eight rows' lie in different banks.
  JAXFP4_HD static uint32_t LhsAt(uint32_t row, uint32_t piece) {
    return SwizzledAt<128>(row, piece);
  }
  JAXFP4_HD static uint32_t CodesAt(uint32_t col, uint32_t piece) {
    return kCodes + SwizzledAt<kCodeRow>(col, piece);
  }
  // Of blocks 2 pair and 2 pair + 1.
  JAXFP4_HD static uint32_t TablesAt(uint32_t col, uint32_t pair) {
    return kTables + col * kTableRow + (pair ^ col / 4 % 2) * 16;
  }
};

// kLhsBlocks: lhs has scales for each slab.
template <int kRowsOfTile, bool kMx, bool kLhsBlocks>
struct Fp8Parts : Fp8Shape<kRowsOfTile, kMx> {
  using Shape = Fp8Shape<kRowsOfTile, kMx>;
  using Shape::kCols;
  using Shape::kDepth;
  using Shape::kFragments;
  using Shape::kRows;

  // ---- the warpgroup that fills stages

  struct Source : TileSource<Shape> {
    int64_t rhs_scale[2], lhs_scale;  // indices of a row's first

    __device__ Source(const DotArgs& a, uint32_t tile) : TileSource<Shape>(a, tile) {
      const uint32_t thread = threadIdx.x % 128;
#pragma unroll
      for (uint32_t i = 0; i < 2; ++i) {
        rhs_scale[i] = this->RhsScale(a, thread + 128 * i);
      }
      lhs_scale = this->LhsScale(a, thread);
    }

    // Starts copies of a slab to a stage.
    __device__ void Fetch(const DotArgs& a, uint32_t slab, unsigned char* stage) const {
      const uint32_t thread = Anew(threadIdx.x % 128);  // addresses would take too many registers
      this->template CopyLhs<8>(a, thread, int64_t{slab} * kDepth,
                                [&](uint32_t row, uint32_t piece) {
                                  return stage + Shape::LhsAt(row, piece);
                                });
      constexpr int kPieces = Shape::kCodeRow / 16;
      this->template CopyRhs<kPieces>(a, thread, int64_t{slab} * Shape::kCodeRow,
                                      [&](uint32_t col, uint32_t piece) {
                                        return stage + Shape::CodesAt(col, piece);
                                      });
      if (thread < kRows) {
        CopyAsync<4>(stage + Shape::kRowFactors + thread * 4,
                     static_cast<const float*>(a.lhs.scale) + lhs_scale + (kLhsBlocks ? slab : 0));
      }
      if constexpr (!kMx) {
        const uint32_t of_slab = HasOuterBlocks(a.rhs) ? slab : 0;
#pragma unroll
        for (uint32_t i = 0; i < 2; ++i) {
          CopyAsync<4>(stage + Shape::kColFactors + (thread + 128 * i) * 4,
                       static_cast<const float*>(a.rhs.scale) + rhs_scale[i] + of_slab);
        }
      }
      CommitCopies();
    }

    __device__ uint32_t ScaleCodes(const DotArgs& a, int i, uint32_t slab) const {
      return LoadAs<uint32_t>(static_cast<const uint8_t*>(a.rhs.scale) + rhs_scale[i] +
                              int64_t{slab} * 4);
    }
  };

  // The stages on their way to the multipliers: copies end in the order in which they began.
  class Delivery {
   public:
    __device__ explicit Delivery(const Ring<Shape>& ring) : behind_(ring) {}
    // One more has begun.
    __device__ void Add() {
      if (count_ < Shape::kAhead) {
        ++count_;
      } else {
        WaitForCopies<Shape::kAhead>();
        behind_.HandOver();
      }
    }
    template <int kPending = Shape::kAhead>
    __device__ void Finish() {
      if constexpr (kPending > 0) {
        if (count_ >= kPending) {
          WaitForCopies<kPending - 1>();
          behind_.HandOver();
        }
        Finish<kPending - 1>();
      }
    }

   private:
    Ring<Shape> behind_;
    int count_ = 0;
  };

  struct Producer {
    const DotArgs& a;
    Ring<Shape> ring;
    Delivery delivery;
    const Fp8Table* tables;

    __device__ Producer(const DotArgs& args, const Ring<Shape>& r)
        : a(args), ring(r), delivery(r), tables(reinterpret_cast<const Fp8Table*>(r.More())) {}

    __device__ void Send(bool is_last) {
      if (threadIdx.x % 128 == 0) {
        *reinterpret_cast<uint32_t*>(ring.At() + Shape::kIsLast) = is_last;
      }
      ring.Advance();
      delivery.Add();
    }

    // Passes over a slab, until no row of the tile has blocks left.
    __device__ void Pass(const Source& source, uint32_t slab, Fp8Scales (&scales)[2],
                         bool is_last) {
      bool any_left;
      do {
        uint32_t used[2];
        float bases[2];
#pragma unroll
        for (int i = 0; i < 2; ++i) bases[i] = scales[i].Pass(&used[i]);
        any_left = AnyOfWarpgroup(scales[0].IsAnyLeft() || scales[1].IsAnyLeft());
        ring.WaitUntilEmpty();
#pragma unroll
        for (uint32_t i = 0; i < 2; ++i) {
          StoreTables(threadIdx.x % 128 + 128 * i, used[i], bases[i]);
        }
        source.Fetch(a, slab, ring.At());
        Send(is_last && !any_left);
      } while (any_left);
    }
    __device__ void StoreTables(uint32_t col, uint32_t used, float base) const {
#pragma unroll
      for (int pair = 0; pair < 2; ++pair) {
        uint32_t words[4];
        LoadShared<8>(tables + Fp8Scales::ByteAt(used, 2 * pair), words);
        LoadShared<8>(tables + Fp8Scales::ByteAt(used, 2 * pair + 1), words + 2);
        StoreWords<16>(words, ring.At() + Shape::TablesAt(col, static_cast<uint32_t>(pair)));
      }
      *reinterpret_cast<float*>(ring.At() + Shape::kColFactors + col * 4) = base;
    }

    // Scales are loaded a slab ahead of their use.
    __device__ void FillTile(const Source& source, uint32_t first, uint32_t last) {
      if constexpr (kMx) {
        uint32_t codes[2] = {source.ScaleCodes(a, 0, first), source.ScaleCodes(a, 1, first)};
        for (uint32_t slab = first; slab < last; ++slab) {
          Fp8Scales scales[2] = {Fp8Scales(codes[0]), Fp8Scales(codes[1])};
          const uint32_t next = slab + 1 < last ? slab + 1 : slab;
#pragma unroll
          for (int i = 0; i < 2; ++i) codes[i] = source.ScaleCodes(a, i, next);
          Pass(source, slab, scales, slab + 1 == last);
        }
      } else {
        for (uint32_t slab = first; slab < last; ++slab) {
          ring.WaitUntilEmpty();
          source.Fetch(a, slab, ring.At());
          Send(slab + 1 == last);
        }
      }
    }
  };

  static __device__ void Produce(const WgmmaArgs& args, Work work, const Ring<Shape>& ring) {
    if constexpr (kMx) {
      if (threadIdx.x % 128 < Fp8Window::kTables) {
        reinterpret_cast<Fp8Table*>(ring.More())[threadIdx.x % 128] = Fp8TableOf(threadIdx.x % 128);
      }
      AnyOfWarpgroup(false);
    }
    Producer producer(args.dot, ring);
    for (; work.tile < args.tiles; work.tile += work.step) {
      producer.FillTile(Source(args.dot, work.tile), work.first_slab, work.last_slab);
    }
    producer.delivery.Finish();
  }

  // ---- the warpgroups that multiply

  struct Multiplier : Sums<Shape> {
    using Sums<Shape>::Below;
    using Sums<Shape>::Col;
    using Sums<Shape>::FirstCol;
    using Sums<Shape>::Lane;
    using Sums<Shape>::sum;
    float slab_sum[Sums<Shape>::kSums];  // of a fragment
    // Where a lane's first pieces are in a stage. Others are at a distance, or bits apart.
    uint32_t codes_at, tables_at;

    __device__ Multiplier() {
      if constexpr (kMx) {
        codes_at = Shape::CodesAt(FirstCol(), 0) + Lane() % 4 * 2;
        tables_at = Shape::TablesAt(FirstCol(), 0);
      } else {
        const uint32_t row8 = FirstCol() - Lane() / 4 + Lane() / 8 % 2 * 8;
        codes_at = Shape::CodesAt(row8 + Lane() % 8, Lane() / 16);
      }
    }
    // Half of the fragment's slab: 64 of the depth, two instructions.
    __device__ void Decode(const unsigned char* stage, int fragment, uint32_t half,
                           uint32_t (&a)[2][4]) const {
      if constexpr (kMx) {
        DecodeMx(stage, fragment, half, a);
      } else {
        const unsigned char* codes = stage + Below(fragment, 0) * Shape::kCodeRow;
#pragma unroll
        for (uint32_t step = 0; step < 2; ++step) {
          LoadMatrices(a[step], codes + (codes_at ^ (4 * half + 2 * step) * 16));
        }
      }
    }
    // An instruction takes a block of each column: of each half of it a lane has four codes.
    __device__ void DecodeMx(const unsigned char* stage, int fragment, uint32_t half,
                             uint32_t (&a)[2][4]) const {
#pragma unroll
      for (int row = 0; row < 2; ++row) {
        const uint32_t below = Below(fragment, row);
        uint32_t tables[4];
        LoadShared<16>(stage + below * Shape::kTableRow + (tables_at ^ half * 16), tables);
#pragma unroll
        for (uint32_t step = 0; step < 2; ++step) {
          const unsigned char* codes =
              stage + below * Shape::kCodeRow + (codes_at ^ (2 * half + step) * 16);
#pragma unroll
          for (uint32_t e = 0; e < 2; ++e) {
            const uint32_t four = *reinterpret_cast<const uint16_t*>(codes + 8 * e);
            a[step][row + 2 * e] = DecodeFour(four, tables[2 * step], tables[2 * step + 1]);
          }
        }
      }
    }

    __device__ void Multiply(const uint32_t (&a)[2][4], uint32_t half, uint64_t rows) {
      BeginMultiply();
      if (half == 0) {
        MultiplyFp8Async<false>(slab_sum, a[0], rows);
      } else {
        MultiplyFp8Async<true>(slab_sum, a[0], rows + 4);
      }
      MultiplyFp8Async<true>(slab_sum, a[1], rows + 4 * half + 2);
      CommitMultiply();
    }

    // Adds the sum of a fragment's slab to that of the output, times the factors of both operands
    // for the slab.
    __device__ void Promote(const unsigned char* stage, int fragment) {
      float of_col[2];
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        of_col[half] = *reinterpret_cast<const float*>(stage + Shape::kColFactors +
                                                       Col(fragment, half) * 4);
      }
      WaitForMultiply<0>();
      HoldSums(slab_sum);
#pragma unroll
      for (int i = 0; i < kRows / 8; ++i) {
        float of_row[2];
        if constexpr (kLhsBlocks) LoadRowFactors(stage, i, of_row);
#pragma unroll
        for (int j = 0; j < 4; ++j) {
          const float f = kLhsBlocks ? of_col[j / 2] * of_row[j % 2] : of_col[j / 2];
          sum[fragment][4 * i + j] += f * slab_sum[4 * i + j];
        }
      }
    }
    // Factors of lhs that are those of every slab.
    __device__ void ScaleRows(const unsigned char* stage) {
#pragma unroll
      for (int i = 0; i < kRows / 8; ++i) {
        float of_row[2];
        LoadRowFactors(stage, i, of_row);
#pragma unroll
        for (int j = 0; j < 4 * kFragments; ++j) sum[j / 4][4 * i + j % 4] *= of_row[j % 2];
      }
    }
    // Of rows 8 i + 2 (Lane() % 4) and the one after.
    __device__ void LoadRowFactors(const unsigned char* stage, int i, float (&of_row)[2]) const {
      uint32_t bits[2];
      LoadShared<8>(stage + Shape::kRowFactors + Lane() % 4 * 8 + i * 32, bits);
      of_row[0] = One::Float(bits[0]);
      of_row[1] = One::Float(bits[1]);
    }
    // While a fragment is decoded the one before is being multiplied.
    __device__ void Accumulate(const Work&, Ring<Shape>* ring) {
      this->Clear();
      uint32_t a[2][2][4];
      bool is_first = true, is_last;
      do {
        ring->WaitUntilFull();
        const unsigned char* stage = ring->At();
#pragma unroll
        for (int fragment = 0; fragment < kFragments; ++fragment) {
          WaitForMultiply<1>();
          Decode(stage, fragment, 0, a[0]);
          if (fragment > 0) {
            Promote(stage, fragment - 1);
          } else if (!is_first) {
            Promote(ring->At(ring->Before()), kFragments - 1);
            ring->ReleaseBefore();
          }
          Multiply(a[0], 0, DescribeRows(stage));
          Decode(stage, fragment, 1, a[1]);
          Multiply(a[1], 1, DescribeRows(stage));
        }
        is_first = false;
        is_last = *reinterpret_cast<const uint32_t*>(stage + Shape::kIsLast) != 0;
        ring->Advance();
      } while (!is_last);
      const unsigned char* stage = ring->At(ring->Before());
      Promote(stage, kFragments - 1);
      if constexpr (!kLhsBlocks) ScaleRows(stage);
      ring->ReleaseBefore();
    }

    __device__ void Scale(const DotArgs& a, const Place<Shape>& place) {
      const float scale = GlobalScale(a, place.batch * a.rows, place.batch * a.cols);
#pragma unroll
      for (int f = 0; f < kFragments; ++f) {
#pragma unroll
        for (int i = 0; i < kRows / 2; ++i) sum[f][i] *= scale;
      }
    }
  };
};

}  // namespace jaxfp4::cuda
