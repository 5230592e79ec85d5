// ragged_dot's CUDA kernels, run thread by thread on the host: groups against float64 products and,
// bit for bit, against the kernels of scaled_dot on their own; and the search for a block's group.
#include "cc/test/cuda_simt.h"

#include "cc/cuda/dot_groups.h"
#include "cc/cuda/ragged_dot.cu"

#include "cc/cpu/parallel.h"
#include "cc/test/cuda_dot_cases.h"

namespace jaxfp4 {
namespace {

using Sizes = std::vector<int32_t>;

struct Group {
  uint32_t group, row, rows;
};

// Groups of `rows` rows as kernels are to see them: none negative, none beyond the last row, and
// the rest a group too.
std::vector<Group> GroupsOf(const Sizes& sizes, uint32_t rows) {
  std::vector<Group> groups;
  uint32_t row = 0;
  for (uint32_t g = 0; g <= sizes.size(); ++g) {
    const int64_t size = g < sizes.size() ? std::max(sizes[g], 0) : int64_t{rows};
    const auto count = static_cast<uint32_t>(std::min<int64_t>(size, rows - row));
    groups.push_back({g, row, count});
    row += count;
  }
  return groups;
}

// ---- the search

struct SearchArgs {
  cuda::RaggedArgs ragged;
  uint32_t tiles;
  std::vector<Group>* found;
};
void SearchKernel(const SearchArgs args) {
  for (uint32_t tile = 0; tile < args.tiles; ++tile) {
    cuda::GroupTile place = {};
    cuda::FindTile<8>(args.ragged, 0, tile, &place);
    if (place.rows > 0 && threadIdx.x == tile % 64) {
      args.found->push_back({place.group, place.row, place.rows});
    }
  }
}

void CheckSearch(const Sizes& sizes, int64_t rows) {
  std::vector<Group> expected, found;
  for (const Group& g : GroupsOf(sizes, static_cast<uint32_t>(rows))) {
    for (uint32_t row = 0; row < g.rows; row += 8) {
      expected.push_back({g.group, g.row + row, std::min(8u, g.rows - row)});
    }
  }
  RaggedDotProblem p = {};
  p.dot.rows = rows;
  p.groups = static_cast<int64_t>(sizes.size());
  const int64_t most = cuda::MostTiles(p, 8);
  Check(static_cast<int64_t>(expected.size()) <= most, "%ld tiles, more than %ld",
        static_cast<long>(expected.size()), static_cast<long>(most));
  SearchArgs args = {};
  args.ragged.dot.rows = static_cast<uint32_t>(rows);
  args.ragged.group_sizes = sizes.data();
  args.ragged.groups = static_cast<uint32_t>(sizes.size());
  args.tiles = static_cast<uint32_t>(most) + 2;
  args.found = &found;
  Check(cuda::Launch(SearchKernel, {1, 1, 1, 64, 0}, nullptr, args) == nullptr, "search fails");
  bool same = found.size() == expected.size();
  for (size_t i = 0; same && i < found.size(); ++i) {
    same = found[i].group == expected[i].group && found[i].row == expected[i].row &&
           found[i].rows == expected[i].rows;
  }
  Check(same, "%ld groups of %ld rows: found other tiles than there are",
        static_cast<long>(sizes.size()), static_cast<long>(rows));
}

void TestSearch() {
  Random random(1);
  constexpr int32_t kMost = INT32_MAX;
  for (const Sizes& sizes : {Sizes{}, Sizes{0}, Sizes{5}, Sizes{-3, 4, -1, 2},
                             Sizes{kMost, kMost, kMost, kMost}, Sizes{3, kMost, 9}}) {
    for (const int64_t rows : {1, 8, 30}) CheckSearch(sizes, rows);
  }
  for (int round = 0; round < 60; ++round) {
    Sizes sizes(1 + random() % 150);
    const uint32_t most = 1 + random() % 20;
    int64_t rows = random() % 9;
    for (int32_t& size : sizes) {
      size = random() % 3 == 0 ? 0 : static_cast<int32_t>(random() % most);
      rows += size;
    }
    CheckSearch(sizes, std::max<int64_t>(1, rows));
    CheckSearch(sizes, std::max<int64_t>(1, rows / 2));  // fewer rows than sizes say
  }
}

// ---- products

RaggedDotProblem ProblemOf(const Operand& lhs, const Operand& rhs, const Sizes& sizes, Dtype dtype,
                           int64_t batch, std::vector<int64_t>* offsets, void* out) {
  RaggedDotProblem p = {};
  p.dot = ProblemOf(lhs, rhs, dtype, out);
  p.dot.batch = batch;
  p.dot.rows = lhs.rows / batch;
  p.groups = static_cast<int64_t>(sizes.size()) / batch;
  p.rhs_batch = rhs.batch / p.groups;
  p.group_sizes = sizes.data();
  offsets->clear();  // of every row, as handlers have them
  for (int64_t row = 0; row < lhs.rows; ++row) {
    offsets->push_back(lhs.spec.format.block_rows == 0 ? 0 : row * lhs.ScaleCols());
  }
  p.dot.lhs.scale_offset = offsets->data();
  p.dot.lhs.rows_per_offset = 1;
  return p;
}

cuda::Status RunWith(cuda::RaggedRunner run, const RaggedDotProblem& p) {
  cuda::RaggedArgs args;
  const cuda::Status status = cuda::Describe(p, &args);
  return status != nullptr ? status : run(p, &args, nullptr);
}

std::vector<double> Slice(const std::vector<double>& x, int64_t begin, int64_t end) {
  return {x.begin() + begin, x.begin() + end};
}

// Rows of one group with its matrix, against float64.
void CheckGroup(const Operand& lhs, const Operand& rhs, int64_t row, int64_t rows, int64_t matrix,
                Dtype dtype, const Memory& out, const std::string& name) {
  const int64_t depth = lhs.depth, cols = rhs.rows;
  const auto global = [](const Operand& x, int64_t entry) {
    return x.global.size() == 1 ? x.global : std::vector<float>{x.global[size_t(entry)]};
  };
  const Operand a{lhs.spec, 1, rows, depth, Slice(lhs.values, row * depth, (row + rows) * depth),
                  global(lhs, 0), {}, nullptr, nullptr};
  const Operand b{rhs.spec, 1, cols, depth,
                  Slice(rhs.values, matrix * cols * depth, (matrix + 1) * cols * depth),
                  global(rhs, matrix), {}, nullptr, nullptr};
  Memory part(rows * cols * cuda::SizeOf(dtype));
  std::memcpy(part.data, out.data + row * cols * cuda::SizeOf(dtype), part.size);
  CheckOutputs(a, b, dtype, part, name);
}

void CheckZeros(const Memory& out, int64_t begin, int64_t end, const std::string& name) {
  for (int64_t i = begin; i < end; ++i) {
    if (out.data[i] != 0) return Check(false, "%s: rows of no group are not 0", name.c_str());
  }
}

// A group's outputs are those of the kernel of scaled_dot for its rows alone.
void CheckAlone(Runner run, const RaggedDotProblem& p, const Group& group, int64_t matrix,
                const Operand& lhs, const Operand& rhs, const std::string& name) {
  ScaledDotProblem alone = p.dot;
  const int64_t row_bytes = p.dot.cols * cuda::SizeOf(p.dot.out_dtype);
  Memory out(group.rows * row_bytes);
  alone.batch = 1;
  alone.rows = group.rows;
  alone.out = out.data;
  alone.lhs.data = lhs.data->data + group.row * lhs.depth * BitsOf(lhs.spec) / 8;
  alone.lhs.scale_offset += group.row;
  alone.rhs.data = rhs.data->data + matrix * rhs.rows * rhs.depth * BitsOf(rhs.spec) / 8;
  alone.rhs.scale_offset += matrix;
  if (rhs.global.size() > 1) alone.rhs.global_scale += matrix;
  alone.rhs.global_count = 1;
  // Tables of offsets begin with 0.
  const int64_t scale_size = lhs.spec.format.scale_type == ScaleType::kFloat32 ? 4 : 1;
  const std::vector<int64_t> lhs_table(p.dot.lhs.scale_offset, p.dot.lhs.scale_offset + group.rows);
  const int64_t rhs_scale_size = rhs.spec.format.scale_type == ScaleType::kFloat32 ? 4 : 1;
  const int64_t zero = 0;
  alone.lhs.scale = lhs.scale->data + *alone.lhs.scale_offset * scale_size;
  alone.rhs.scale = rhs.scale->data + *alone.rhs.scale_offset * rhs_scale_size;
  alone.lhs.scale_offset = lhs_table.data();
  alone.rhs.scale_offset = &zero;
  if (!cuda::InUnits(alone) && run != cuda::RunTile) return;  // a slice that wide loads cannot read
  Check(jaxfp4::RunWith(run, alone) == nullptr, "%s fails alone", name.c_str());
  Check(std::memcmp(out.data, static_cast<unsigned char*>(p.dot.out) + group.row * row_bytes,
                    out.size) == 0,
        "%s: group %u of %u rows has other bits than alone", name.c_str(), group.group, group.rows);
}

Runner AloneOf(cuda::RaggedRunner run) {
  return run == cuda::RunRaggedGemv       ? cuda::RunGemv
         : run == cuda::RunRaggedLargeMma ? cuda::RunLargeMma
         : run == cuda::RunRaggedSmallMma ? cuda::RunSmallMma : cuda::RunTile;
}

void CheckRoute(const cuda::RaggedRoute& route, const Operand& lhs, const Operand& rhs,
                const Sizes& sizes, Dtype dtype, int64_t batch) {
  Memory out(lhs.rows * rhs.rows * cuda::SizeOf(dtype));
  std::vector<int64_t> offsets;
  const RaggedDotProblem p = ProblemOf(lhs, rhs, sizes, dtype, batch, &offsets, out.data);
  if (!route.takes(p.dot)) return;
  const std::string name = NameOf(lhs, rhs, route.name);
  const cuda::Status status = RunWith(route.run, p);
  Check(status == nullptr, "%s: %s", name.c_str(), status);
  const int64_t row_bytes = rhs.rows * cuda::SizeOf(dtype);
  for (int64_t b = 0; b < batch; ++b) {
    const Sizes own(sizes.begin() + b * p.groups, sizes.begin() + (b + 1) * p.groups);
    for (Group group : GroupsOf(own, static_cast<uint32_t>(p.dot.rows))) {
      if (group.rows == 0) continue;
      group.row += static_cast<uint32_t>(b * p.dot.rows);
      const int64_t matrix = p.Matrix(b, group.group), end = group.row + group.rows;
      if (group.group == own.size()) {
        CheckZeros(out, group.row * row_bytes, end * row_bytes, name);
        continue;
      }
      CheckGroup(lhs, rhs, group.row, group.rows, matrix, dtype, out, name);
      if (route.run == cuda::RunRaggedGemv && group.rows > 8) continue;
      CheckAlone(AloneOf(route.run), p, group, matrix, lhs, rhs, name);
    }
  }
}

bool CutsRows(const Spec& s) { return s.coded && s.format.block_rows > 1; }

// Every kernel on every pair of formats that it takes.
void TestKernels() {
  Random random(2);
  int number = 0;
  const Sizes cases[] = {{1, 0, 2, 1}, {0, 0, 0, 0}, {0, 19, 0, 1}, {5, 8, 0, 40}, {1, -7, 3, 1},
                         {0, 0, 33, 9}};
  for (const Spec& a : LhsSpecs()) {
    for (const Spec& b : CodedSpecs()) {
      if (CutsRows(a)) continue;
      for (const cuda::RaggedRoute& route : cuda::kRaggedRoutes) {
        if (++number % kEvery != 0) continue;
        simt::descending = number % 2 == 0;
        const Sizes& sizes = cases[number % 6];
        int64_t rows = random() % 4;
        for (const int32_t size : sizes) rows += std::max(size, 0);
        const int64_t unit = Unit(a, b), cols = 1 + random() % 70;
        const int64_t depth = unit * (1 + random() % std::max<int64_t>(1, 300 / unit));
        const Operand lhs = Make(a, 1, std::max<int64_t>(1, rows), depth, &random);
        const Operand rhs = Make(b, 4, cols, depth, &random);
        CheckRoute(route, lhs, rhs, sizes, static_cast<Dtype>(random() % 3), 1);
      }
    }
  }
}

// Batch entries with matrices of their own, and with the same; more groups than rows; fewer rows
// than sizes say.
void TestBatches() {
  Random random(3);
  const Spec mxfp4 = CodedSpecs()[2], bf16 = {"bfloat16", false, Dtype::kBF16, {}};
  for (const Spec& a : {bf16, mxfp4}) {
    for (const cuda::RaggedRoute& route : cuda::kRaggedRoutes) {
      const Operand lhs = Make(a, 1, 14, 96, &random);
      const Sizes sizes = {2, 0, 4, 0, 5, 1};
      CheckRoute(route, lhs, Make(mxfp4, 6, 24, 96, &random), sizes, Dtype::kF32, 2);
      CheckRoute(route, lhs, Make(mxfp4, 3, 24, 96, &random), sizes, Dtype::kF32, 2);
      CheckRoute(route, lhs, Make(mxfp4, 3, 24, 96, &random), {3, 9, 400}, Dtype::kF32, 1);
      Sizes many(50, 0);
      many[7] = many[31] = many[32] = 1, many[49] = 4;
      CheckRoute(route, lhs, Make(mxfp4, 50, 8, 32 * 3, &random), many, Dtype::kBF16, 1);
    }
  }
}

void TestInterleaved() {
  Random random(4);
  for (const Spec& b : {CodedSpecs()[0], CodedSpecs()[1], CodedSpecs()[2]}) {
    const Operand lhs = Make({"bfloat16", false, Dtype::kBF16, {}}, 1, 9, 192, &random);
    const Operand rhs = Make(b, 3, 48, 192, &random);
    const Sizes sizes = {3, 0, 5};
    const int64_t row_bytes = 96, scale_cols = rhs.ScaleCols();
    Memory data(static_cast<int64_t>(rhs.data->size)), scale(static_cast<int64_t>(rhs.scale->size));
    for (int64_t r = 0; r < 3 * 48; ++r) {
      for (int64_t c = 0; c < row_bytes; ++c) {
        data.data[r / 16 * 16 * row_bytes + c / 4 * 64 + r % 16 * 4 + c % 4] =
            rhs.data->data[r * row_bytes + c];
      }
      for (int64_t c = 0; b.format.block_rows == 1 && c < scale_cols; ++c) {
        scale.data[(r / 16 * scale_cols + c) * 16 + r % 16] = rhs.scale->data[r * scale_cols + c];
      }
    }
    for (const cuda::RaggedRoute& route : cuda::kRaggedRoutes) {
      Memory expected(9 * 48 * 4), got(9 * 48 * 4);
      std::vector<int64_t> offsets;
      RaggedDotProblem p = ProblemOf(lhs, rhs, sizes, Dtype::kF32, 1, &offsets, expected.data);
      Check(RunWith(route.run, p) == nullptr, "%s fails", route.name);
      p.dot.rhs.data = data.data;
      if (b.format.block_rows == 1) p.dot.rhs.scale = scale.data;
      p.dot.rhs_layout = Layout::kInterleaved16;
      p.dot.out = got.data;
      Check(RunWith(route.run, p) == nullptr, "%s fails on interleaved rows", route.name);
      Check(std::memcmp(got.data, expected.data, got.size) == 0, "%s: layouts differ", route.name);
    }
  }
}

void TestRoutes() {
  Random random(5);
  const Operand lhs = Make({"bfloat16", false, Dtype::kBF16, {}}, 1, 1, 96, &random);
  const Operand rhs = Make(CodedSpecs()[2], 1, 1, 96, &random);
  const auto route = [&](int64_t rows, int64_t cols, int64_t groups) {
    RaggedDotProblem p = {};
    p.dot = ProblemOf(lhs, rhs, Dtype::kF32, nullptr);
    p.dot.rows = rows, p.dot.cols = cols;
    p.rhs_batch = 1, p.groups = groups;
    return std::string(cuda::FindRaggedRoute(p, 90, 132)->name);
  };
  Check(route(4, 5760, 32) == "ragged gemv", "a token");
  Check(route(128, 5760, 32) == "ragged gemv", "32 tokens");
  Check(route(512, 5760, 32) == "ragged mma small", "128 tokens");
  Check(route(8192, 5760, 32) == "ragged mma large", "2048 tokens");
  Check(cuda::FindRaggedRoute({}, 75, 40) == nullptr, "an old GPU");
}

// No depth, no groups: zeros.
void TestNothing() {
  for (const bool depth : {false, true}) {
    Memory out(6 * 4);
    RaggedDotProblem p = {};
    p.dot.batch = p.rhs_batch = 1, p.dot.rows = 2, p.dot.cols = 3;
    p.dot.depth = depth ? 32 : 0;
    p.groups = depth ? 0 : 2;
    p.dot.out = out.data;
    Check(cuda::RaggedDot(p, nullptr) == nullptr, "an empty product fails");
    CheckZeros(out, 0, 24, "an empty product");
  }
}

}  // namespace
}  // namespace jaxfp4

int main() {
  const jaxfp4::ScopedFlushToZero flush;
  jaxfp4::TestSearch();
  jaxfp4::TestRoutes();
  jaxfp4::TestNothing();
  jaxfp4::TestKernels();
  jaxfp4::TestBatches();
  jaxfp4::TestInterleaved();
  return jaxfp4::Finish("cuda_ragged_test");
}
