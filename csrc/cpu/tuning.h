// The constants that were chosen by measurement, for the CPU: value, unit, effect. Constants that follow from an
// instruction set or a format stand where they are used.
//
// The processor on which a value was chosen is not recorded. The published benchmarks of these values ran on AMD EPYC,
// family 25 model 17 and family 26 model 2 (benchmarks/results/cpu).
#pragma once

#include <cstdint>

namespace rnnfused {

// Processor ------------------------------------------------------------------------------------------------------

constexpr int64_t kCacheLine = 64;    // bytes
constexpr int64_t kPageBytes = 4096;  // of the smallest page

// Bytes of packed weights that stay in a core's L2 while rows take turns with them.
constexpr int64_t kResidentBytes = 640 * 1024;

// Bytes of states that stay in L1 while a few rows run through all steps.
constexpr int64_t kStateBytes = 16 * 1024;

// Rows at a multiple of this distance, in bytes, map to few sets of L1: kernels copy such rows first.
constexpr int64_t kAliasBytes = 1024;
// The same for the rows of a layer's input, which a tile reads beside its states.
constexpr int64_t kInputAliasBytes = 2048;
// Rows of a copy lie a quarter of this more than a multiple of it apart, in bytes.
constexpr int64_t kPaddedStrideUnit = 256;

// Register tiles -------------------------------------------------------------------------------------------------

// Rows of the largest tile with 32 vector registers: 14 x 2 sums, 2 weights, 1 state.
constexpr int kWideTileRows = 14;
// The same with 16 vector registers: 6 x 2 sums, 2 weights, 1 state.
constexpr int kNarrowTileRows = 6;
// Rows that a tile addresses from one register. With more registers for addresses, compilers keep some in vector
// registers, and each fetch of those takes a multiply-add's place.
constexpr int kRowsPerBase = 5;

// Workers --------------------------------------------------------------------------------------------------------

// Multiply-adds that are worth one more worker: starting threads costs 5 to 19 us.
constexpr int64_t kMinWorkPerWorker = 500'000;
// Elements to pack that are worth one more worker: packing moves memory rather than multiplies.
constexpr int64_t kMinPackPerWorker = 200'000;
// Bytes of gradient sums that are worth one more worker, when the workers' sums are added up.
constexpr int64_t kMinAddPerWorker = 32 * 1024;
// Bytes of rows to copy to or from the memory of a part that are worth one more worker.
constexpr int64_t kMinGatherPerWorker = 128 * 1024;
// Groups of rows have gradient sums of their own, so that workers can share the groups (part_size.h). The least rows of
// a group, and the least terms of its sums: of two groups, which cost one worker up to 4%; and of more.
constexpr int64_t kMinRowsOfTwo = 8;
constexpr int64_t kMinSumOfTwo = 320;
constexpr int64_t kMinRowsOfMany = 2 * kWideTileRows;
constexpr int64_t kMinSumOfMany = 2048;
constexpr int64_t kMaxRowGroups = 16;
// The most bytes of a group's sums, and of all groups.
constexpr int64_t kMaxOwnSums = 2 * 1024 * 1024;
constexpr int64_t kMaxGroupSums = 16 * 1024 * 1024;
// Columns of a token sum that one worker takes at least: one cache line of float32 sums.
constexpr int64_t kTokenSumColumns = 16;
// A gradient by token ids is summed in its own layout, value by value, if it has at least this many tokens per id. Else
// it is summed in rows and transposed, which takes time for each token.
constexpr int64_t kTokensPerId = 4;

// Teams (team.h) -------------------------------------------------------------------------------------------------

// A batch may run as a team where each worker would have fewer rows than this.
constexpr int64_t kFewRowsPerWorker = 4;
// The most rows of a team, on every instruction set: one tile's. Any worker can hold the states of so many.
constexpr int64_t kMaxTeamRows = kWideTileRows;
constexpr int64_t kMaxMembers = 64;
// Bytes of W from which a team pays: a smaller W stays in the nearest cache of each worker.
constexpr int64_t kMinTeamBytes = 128 * 1024;
// Multiply-adds of a member per step: a meeting of running threads takes 0.1 us.
constexpr int64_t kMinWorkPerMeeting = 32'000;
// A step of n members takes about work / (n kTeamWorkPerNs) + kMeetingNs + n kMeetingNsPerMember nanoseconds: each member
// reads a cache line of every other one. The first is the rate of one row whose W lies in L2; the last two are estimates
// from the 0.1 us of two members, as no machine with many cores was at hand (docs/cpu-kernel.md).
constexpr int64_t kTeamWorkPerNs = 45;
constexpr int64_t kMeetingNs = 50;
constexpr int64_t kMeetingNsPerMember = 25;
// Bytes of packed W up to which each member packs the panels that it uses.
constexpr int64_t kMaxTeamPack = 16 * 1024 * 1024;
// Nanoseconds that members wait for one of them before the team ends, plus multiply-adds of a step per nanosecond.
constexpr int64_t kPatienceNs = 200'000;
constexpr int64_t kPatienceWorkPerNs = 4;
// Iterations of a spin barrier between two reads of the clock.
constexpr int kSpinsPerClock = 64;

// Parts of a layer (part_size.h) ---------------------------------------------------------------------------------

// Bytes of a part's d, or of a worker's projections: they stay in L2 beside the other data that a part reads.
constexpr int64_t kPartBytes = 384 * 1024;
// The least steps of a part where the batch is outside the time in memory: shorter runs cost more.
constexpr int64_t kMinRunSteps = 128;
// Rows of a part that has some steps only, unless W is too large to be read again for so few.
constexpr int64_t kPartRows = 4 * kWideTileRows;
// The least rows per worker whose projections are made at once.
constexpr int64_t kMinProjectedRows = 64;

// Projections ----------------------------------------------------------------------------------------------------

// The loop makes the projections of at least this many rows, which share what they read of W_ih.
constexpr int64_t kMinFusedRows = 8;
// Multiply-adds of all projections up to which the loop makes those of fewer rows, too.
constexpr int64_t kMaxFusedWork = 100'000;
// Tiles of rows that take turns with one panel, where the packed weight exceeds L2.
constexpr int64_t kTilesPerPanel = 8;

// Prefetch of a forward tile's output ----------------------------------------------------------------------------

// Only for outputs of more bytes than this, which no cache holds, ..
constexpr int64_t kMinPrefetchedOutput = 1024 * 1024;
// .. and tiles that multiply with at least this many rows of the weights, which take long enough.
constexpr int64_t kMinPrefetchDepth = 128;

// Product sums (kernels/product_sum.h) ---------------------------------------------------------------------------

// The most rows that a product sum takes at once; fewer cost more per row.
constexpr int64_t kStripRows = 256;
// Bytes of right columns that are packed at once: with a strip's rows they stay in L2.
constexpr int64_t kBlockRowBytes = 2048;
// Right rows up to this many bytes are used in place: a tile's part of a strip fits L1 as well as if packed.
constexpr int64_t kShortRowBytes = 1024;

// Output layer and cross-entropy (cross_entropy_params.h), chosen on an AMD EPYC of family 25, model 1 -------------

// Bytes of logits that exist at once, and the least and most rows of them. Each chunk of rows reads and writes the sums
// of the weight's gradient once.
constexpr int64_t kLogitsBytes = 512 * 1024;
constexpr int64_t kMinLogitsRows = 16 * kWideTileRows;
constexpr int64_t kMaxLogitsRows = 32 * 1024;
// Bytes of the logits that a worker makes, and reads again, before it goes on; and the least rows of them.
constexpr int64_t kLogitsBlockBytes = 16 * 1024;
constexpr int64_t kMinBlockRows = 8 * kWideTileRows;
// The most bytes of rows that reduce their logits together.
constexpr int64_t kRowsTogetherBytes = 128 * 1024;

// Generation (kernels/generate.h) --------------------------------------------------------------------------------

// Tiles of rows that take each step at once. They share each read of weights that exceed a cache.
constexpr int64_t kGeneratedTiles = 4;

// Memory (memory.h) ----------------------------------------------------------------------------------------------

// Blocks, and bytes of them, that a thread keeps from call to call.
constexpr int kSpareBlocks = 8;
constexpr int64_t kSpareBytes = 8 * 1024 * 1024;
// Blocks of a thread for little memory, bytes of each, and bytes between two: their starts map to different sets of L1.
constexpr int kLittleBlocks = 8;
constexpr int64_t kLittleBlockBytes = 4096;
constexpr int64_t kLittleBlockGap = 3 * kCacheLine;

}  // namespace rnnfused
