// Generation on the CPU: symbol after symbol, each the input of the next step.
#pragma once

#include <cstdint>

#include "cpu/workers.h"
#include "generation.h"

namespace rnnfused {

// Fills `memory`, of source.sizes.packed_bytes().
void pack_generator(const GeneratorSource& source, char* memory, const Workers& workers);

// Workers share the rows. A row's symbols depend on neither the other rows nor how the symbols are cut into calls.
void run_generate(const GenerateParams& params, const Workers& workers);

}  // namespace rnnfused
