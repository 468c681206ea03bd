#include "cpu/part_size.h"

#include <algorithm>

#include "cpu/tuning.h"
#include "sizes.h"

namespace rnnfused {

PartSize part_size(const LayerBackwardParams& layer, int64_t rows) {
  const BackwardParams& loop = layer.loop;
  const int64_t bytes = loop.hidden_size * layer.item_bytes();
  const int64_t whole = kPartBytes / product_of(bytes, loop.num_steps) / kWideTileRows * kWideTileRows;
  if (product_of(rows, bytes, loop.num_steps) <= 2 * kPartBytes) return {rows, loop.num_steps};
  if (whole > 0) return {whole, loop.num_steps};
  if (product_of(bytes, loop.hidden_size) <= kResidentBytes) rows = std::min(rows, kPartRows);
  const int64_t least = layer.is_batch_first() ? kMinRunSteps : (kStripRows + rows - 1) / rows;
  return {rows, std::min(loop.num_steps, std::max(least, kPartBytes / product_of(bytes, rows)))};
}

}  // namespace rnnfused
