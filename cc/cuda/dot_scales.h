// Block scales in the orders in which cuBLASLt reads them, written anew for each call.
#pragma once

#include "cc/cuda/dot_operand.h"

namespace jaxfp4::cuda {

enum class ScaleOrder {
  kColumns,  // float32, one column after another
  kRows,     // float32, one row after another, in multiples of four
  kTiles,    // bytes, in tiles of 128 rows x 4 columns, from left to right, then down; see below
};

// The scales of an operand, written one entry of the batch after another.
struct ArrangedScales {
  ScaleOrder order;
  uint32_t rows, cols;  // of scales, in an entry
  uint32_t row_step;    // rows of the operand from one row of scales to the next
  uint32_t entry_rows;  // rows of the operand in an entry
  uint32_t total;       // words of four bytes
  Divider entry_words;
  Divider line;  // words from one column, row, or row of tiles (in tiles) to the next
  uint32_t* out;

  int64_t EntryBytes() const { return int64_t{entry_words.divisor} * 4; }
};

constexpr int64_t RoundUp(int64_t n, int64_t unit) { return CeilDiv(n, unit) * unit; }

inline ArrangedScales Arrange(ScaleOrder order, int64_t batch, int64_t entry_rows,
                              int64_t row_step, int64_t rows, int64_t cols) {
  ArrangedScales s = {};
  s.order = order;
  s.rows = static_cast<uint32_t>(rows);
  s.cols = static_cast<uint32_t>(cols);
  s.row_step = static_cast<uint32_t>(row_step);
  s.entry_rows = static_cast<uint32_t>(entry_rows);
  const bool tiles = order == ScaleOrder::kTiles;
  s.line = Divider(tiles ? CeilDiv(cols, 4) : order == ScaleOrder::kRows ? RoundUp(cols, 4) : rows);
  const int64_t words = tiles                        ? RoundUp(rows, 128) * CeilDiv(cols, 4)
                        : order == ScaleOrder::kRows ? rows * RoundUp(cols, 4)
                                                     : RoundUp(rows * cols, 4);
  s.entry_words = Divider(words);  // entries start at multiples of 16 bytes, as they must
  s.total = static_cast<uint32_t>(batch * words);
  return s;
}

struct ScalePlace {
  uint32_t row, col;  // of the first scale in a word
};

// A word of a tile is four columns of a row; 32 words are 8 rows of each of four quarters of the
// tile.
JAXFP4_HD ScalePlace PlaceOf(const ArrangedScales& s, uint32_t word) {
  if (s.order == ScaleOrder::kTiles) {
    const uint32_t tile = word / 128, in = word % 128, down = s.line.Divide(tile);
    return {down * 128 + in % 4 * 32 + in / 4, s.line.Remainder(tile, down) * 4};
  }
  const uint32_t line = s.line.Divide(word), in = s.line.Remainder(word, line);
  return s.order == ScaleOrder::kRows ? ScalePlace{line, in} : ScalePlace{in, line};
}

// Zeros where the operand has no scales.
JAXFP4_HD uint32_t ScaleWord(const Operand& x, const ArrangedScales& s, uint32_t word) {
  const uint32_t entry = s.entry_words.Divide(word);
  const ScalePlace place = PlaceOf(s, s.entry_words.Remainder(word, entry));
  if (place.row >= s.rows || place.col >= s.cols) return 0;
  const int64_t first =
      RowOf(x, entry * s.entry_rows + place.row * s.row_step).scale + place.col;
  if (s.order != ScaleOrder::kTiles) return static_cast<const uint32_t*>(x.scale)[first];
  const auto* scales = static_cast<const uint8_t*>(x.scale) + first;
  uint32_t four = 0;
  for (uint32_t i = 0; i < 4 && place.col + i < s.cols; ++i) four |= uint32_t{scales[i]} << 8 * i;
  return four;
}

}  // namespace jaxfp4::cuda
