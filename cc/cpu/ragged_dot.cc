// ragged_dot: the rows of a group by a slice of its columns are a scaled_dot of their own.
//
// Groups are shared out in such slices, each for one thread, so that many small groups keep all
// threads busy. A group that is a large part of the work has all threads to itself instead: its
// rows are then decoded once for all columns.
#include <algorithm>
#include <cstring>
#include <vector>

#include "cc/cpu/run.h"
#include "cc/cpu/targets.h"

namespace jaxfp4 {
namespace {

// Slices begin with whole panels of every kernel, and with whole blocks of rows of rhs.
constexpr int64_t kSliceCols = 384;
constexpr int64_t kSlicesPerThread = 8;
// Reading a matrix takes as long as multiplying so many rows.
constexpr int64_t kReadingRows = 8;

int64_t CeilDiv(int64_t a, int64_t b) { return (a + b - 1) / b; }

int64_t BitsOf(const DotOperand& x) {
  if (!x.coded) return x.dtype == Dtype::kF32 ? 32 : 16;
  return x.format.element == Element::kE2M1 ? 4
         : x.format.element == Element::kE2M3 || x.format.element == Element::kE3M2 ? 6 : 8;
}

// Rows of a group that has any, counted through the batch.
struct Group {
  int64_t matrix, row, rows;

  int64_t Work() const { return rows + kReadingRows; }
};

// Rows from `row` on, which one batch entry has.
DotOperand RowsOf(const DotOperand& x, int64_t row, int64_t rows, int64_t all_rows,
                  int64_t depth) {
  DotOperand part = x;
  part.data = static_cast<const char*>(x.data) + row * depth * BitsOf(x) / 8;
  if (x.coded) part.scale_offset += row / x.rows_per_offset;
  const bool own = x.global_count == all_rows;
  part.global_scale += row * x.global_count / all_rows;
  part.global_count = own ? rows : 1;
  return part;
}

class RaggedDot {
 public:
  RaggedDot(const RaggedDotProblem& p, Parallel& parallel) : p_(p), parallel_(parallel) {
    for (int64_t b = 0; b < p.dot.batch; ++b) AddGroups(b);
  }

  void Run() {
    if (p_.dot.depth == 0) return;  // all of out is zeros already
    int64_t work = 0;
    for (const Group& group : groups_) work += group.Work();
    const int64_t columns = CeilDiv(p_.dot.cols, kSliceCols);
    const int64_t wanted = CeilDiv(kSlicesPerThread * parallel_.threads(), Count());
    const int64_t slices = std::min(columns, wanted);
    const auto large = [&](const Group& group) {  // a slice would be half of what a thread has
      return group.Work() * 2 * parallel_.threads() > work * slices;
    };
    const auto small = std::partition(groups_.begin(), groups_.end(), large);
    for (auto group = groups_.begin(); group != small; ++group) {
      Multiply(*group, 0, p_.dot.cols, parallel_);
    }
    Share(small - groups_.begin(), CeilDiv(columns, slices) * kSliceCols);
  }

 private:
  int64_t Count() const { return std::max<int64_t>(1, static_cast<int64_t>(groups_.size())); }

  // The groups of a batch entry, and zeros after the last.
  void AddGroups(int64_t b) {
    const ScaledDotProblem& p = p_.dot;
    int64_t row = b * p.rows;
    for (int64_t g = 0; g < p_.groups; ++g) {
      const int64_t rows = p_.group_sizes[b * p_.groups + g];
      if (rows > 0) groups_.push_back({p_.Matrix(b, g), row, rows});
      row += rows;
    }
    if (p.depth == 0) row = b * p.rows;
    const int64_t row_bytes = p.cols * (p.out_dtype == Dtype::kF32 ? 4 : 2);
    std::memset(static_cast<char*>(p.out) + row * row_bytes, 0,
                static_cast<size_t>(((b + 1) * p.rows - row) * row_bytes));
  }

  // Groups from `first` on, in slices of `cols` columns: first those of all groups' first columns,
  // so that the slices of one group are spread over threads.
  void Share(int64_t first, int64_t cols) {
    const int64_t count = static_cast<int64_t>(groups_.size()) - first;
    if (count == 0) return;
    parallel_.For(count * CeilDiv(p_.dot.cols, cols), 1, [&](int64_t begin, int64_t end) {
      Serial serial;
      for (int64_t i = begin; i < end; ++i) {
        const int64_t col = i / count * cols;
        Multiply(groups_[static_cast<size_t>(first + i % count)], col,
                 std::min(cols, p_.dot.cols - col), serial);
      }
    });
  }

  void Multiply(const Group& group, int64_t col, int64_t cols, Parallel& parallel) const {
    ScaledDotProblem p = p_.dot;
    p.lhs = RowsOf(p.lhs, group.row, group.rows, p.batch * p.rows, p.depth);
    const int64_t block_rows = p.rhs.format.block_rows;
    const int64_t scale_row = block_rows == 0 ? 0 : col / block_rows;
    const int64_t offset =
        p.rhs.scale_offset[group.matrix] + scale_row * p.rhs.scale_row_stride;
    const int64_t matrices = p_.rhs_batch * p_.groups;
    p.rhs.data = static_cast<const char*>(p.rhs.data) +
                 (group.matrix * p.cols + col) * p.depth * BitsOf(p.rhs) / 8;
    p.rhs.scale_offset = &offset;
    p.rhs.rows_per_offset = cols;
    p.rhs.global_scale += group.matrix * p.rhs.global_count / matrices;
    p.rhs.global_count = 1;
    p.out = static_cast<char*>(p.out) +
            (group.row * p.out_stride + col) * (p.out_dtype == Dtype::kF32 ? 4 : 2);
    p.batch = 1;
    p.rows = group.rows;
    p.cols = cols;
    ActiveKernels().scaled_dot(p, parallel);
  }

  const RaggedDotProblem& p_;
  Parallel& parallel_;
  std::vector<Group> groups_;
};

}  // namespace

void RunRaggedDot(const RaggedDotProblem& p, Parallel& parallel) {
  if (p.dot.batch * p.dot.rows * p.dot.cols == 0) return;
  RaggedDot(p, parallel).Run();
}

}  // namespace jaxfp4
