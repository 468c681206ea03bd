#include "cpu/part_size.h"

#include <algorithm>

#include "cpu/gradient_sums.h"
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

int64_t projected_rows(const RecurrenceParams& loop, const Workers& workers) {
  const int64_t row_bytes = loop.hidden_size * bytes_of(sum_dtype(loop.dtype));
  return workers.count * std::max(kPartBytes / row_bytes, kMinProjectedRows);
}

int64_t row_groups(const LayerBackwardParams& layer) {
  const int64_t bytes = GradientSums::bytes(layer), rows = layer.loop.batch_size;
  if (bytes > kMaxOwnSums) return 1;
  const int64_t terms = product_of(rows, layer.loop.num_steps);
  const int64_t most = std::min(
      {kMaxRowGroups, rows / kMinRowsOfMany, terms / kMinSumOfMany, kMaxGroupSums / std::max<int64_t>(bytes, 1)});
  int64_t groups = rows / kMinRowsOfTwo >= 2 && terms / kMinSumOfTwo >= 2 ? 2 : 1;
  while (2 * groups <= most) groups *= 2;
  return groups;
}

}  // namespace rnnfused
