// Mixtures of experts: checks against float64 and timings of routing, both products and the sum.

#include "moe_reference.cuh"
#include "w4_random.cuh"
#include "watchdog.cuh"

namespace deploykit::cuda {  // internal: the kernels behind the doors; variant -1 = the chosen one
void moe_product_variant(int variant, const MoeSpec& spec, const ExpertCall& call, const ExpertMatrix& w,
                         const MoeRoutes& routes, bool expands, cudaStream_t stream);
bool moe_variant_fits(int variant, const ExpertCall& call, bool expands);
}  // namespace deploykit::cuda

namespace {

constexpr int kVariants = 10;
const int kHeights[] = {8, 16, 32, 64, 128, 256};

void fail(const std::string& what) {
  ++failures();
  std::printf("FAIL %s\n", what.c_str());
}

// ------------------------------------------------------------------------------------------------------------ routing
template <class V>
std::vector<V> fetch(const V* from, size_t count) {
  std::vector<V> v(count);
  CU(cudaMemcpy(v.data(), from, count * sizeof(V), cudaMemcpyDeviceToHost));
  return v;
}

void check_route(const MoeSpec& spec, int tokens, int capacity, Logits kind, bool padded) {
  if (!mine()) return;
  sign_of_life();
  char name[160];
  std::snprintf(name, sizeof name, "route experts %d top %d tokens %d of %d normalize %d sigmoid %d after %d kind %d padded %d",
                spec.experts, spec.top_k, tokens, capacity, spec.normalize, spec.sigmoid, spec.softmax_after_topk,
                static_cast<int>(kind), padded);
  const std::vector<float> logits = random_logits(kind, tokens, spec.experts);
  std::vector<int32_t> row;
  for (int t = 0; padded && t < tokens; ++t) row.push_back(t % 3 == 1 || t + 5 > tokens ? -1 : t);
  const int64_t stride = spec.experts + 4;
  Buffer<float> device(tokens * stride);
  CU(cudaMemcpy2D(device.data, stride * 4, logits.data(), spec.experts * 4, spec.experts * 4, tokens,
                  cudaMemcpyHostToDevice));
  Buffer<int32_t> rows(std::max<int64_t>(row.size(), 1));
  if (padded) rows.set(row);
  Buffer<char> memory(moe_routes_bytes(capacity, spec));
  const MoeRoutes routes = moe_routes(memory, capacity, spec);
  for (int again = 0; again < 2; ++again) {  // over what the last call left, too
    moe_route(spec, device, stride, tokens, padded ? rows.data : nullptr, routes, stream);
  }
  finish(name);
  const Routed want = reference_routes(spec, logits, tokens, row);
  const size_t places = want.expert.size(), slots = want.token.size();
  const auto expert = fetch(routes.expert, places), slot = fetch(routes.slot, places);
  const auto weight = fetch(routes.weight, places);
  int64_t wrong = 0;
  double worst = 0;
  for (size_t i = 0; i < places; ++i) {
    wrong += slot[i] != want.slot[i];
    if (want.expert[i] < 0) continue;
    wrong += expert[i] != want.expert[i];
    const double off = std::fabs(weight[i] - want.weight[i]) / std::max(want.weight[i], 1e-30);
    worst = std::max(worst, std::isfinite(weight[i]) ? off : 1e9);
  }
  if (wrong != 0 || worst > 2e-6) fail(std::string(name) + ": choice " + std::to_string(wrong) + " weight " + std::to_string(worst));
  if (fetch(routes.token, slots) != want.token) fail(std::string(name) + ": tokens of the slots");
  if (fetch(routes.begin, spec.experts + 1) != want.begin) fail(std::string(name) + ": first slots");
  const auto counts = fetch(routes.tile_counts, 6);
  const int4* list = routes.tiles;
  for (int h = 0; h < 6; ++h) {  // tiles cover every expert's slots in order
    const int height = kHeights[h];
    int64_t bound = 0;
    for (int e = 0; e < spec.experts; ++e) bound += (want.begin[e + 1] - want.begin[e] + height - 1) / height;
    if (counts[h] != bound) fail(std::string(name) + ": tiles of " + std::to_string(height));
    const auto tiles = fetch(list, static_cast<size_t>(bound));
    int at = 0;
    for (const int4& tile : tiles) {
      if (tile.y != at || tile.z < 1 || tile.z > height || tile.y < want.begin[tile.x] ||
          tile.y + tile.z > want.begin[tile.x + 1]) {
        fail(std::string(name) + ": a tile of " + std::to_string(height));
        break;
      }
      at += tile.z;
    }
    if (at != static_cast<int>(slots)) fail(std::string(name) + ": tiles cover the slots");
    const int64_t all = int64_t{capacity} * spec.top_k, experts = std::min<int64_t>(all, spec.experts);
    list += std::min<int64_t>(experts + (all - experts) / height, ceil_div(capacity, height) * spec.experts);
  }
}

void check_routes() {
  const int shapes[][2] = {{4, 1}, {4, 4}, {8, 2}, {32, 4}, {60, 4}, {64, 6}, {128, 8}, {160, 6}, {256, 8}, {512, 10}, {512, 32}};
  const int before = failures();
  for (const auto& shape : shapes) {
    for (int tokens : {1, 2, 31, 33, 64, 255, 256, 257, 1000}) {
      const int capacity = tokens + tokens % 7;
      check_route(spec_of(shape[0], shape[1]), tokens, capacity, Logits::normal, false);
      check_route(spec_of(shape[0], shape[1], false), tokens, capacity, Logits::tied, tokens > 5);
      check_route(spec_of(shape[0], shape[1], true, true), tokens, capacity, Logits::one_expert, false);
      check_route(spec_of(shape[0], shape[1], false, true), tokens, capacity, Logits::equal, false);
      check_route(spec_of(shape[0], shape[1], false, false, true), tokens, capacity, Logits::skewed, true);
    }
  }
  check_route(spec_of(128, 8), 8192, 8192, Logits::normal, false);
  check_route(spec_of(8, 2), 8192, 8192, Logits::skewed, true);
  std::printf("routing: %d failures\n", failures() - before);
}

// ----------------------------------------------------------------------------------------------------------- products
struct Product {
  int64_t n, k;
  int group;  // 0 = 16 bits
  int end;    // 0 contract, 1 expand, 2 expand gated
  bool bias;
  Activation activation;
};

template <class T>
void check_product(const MoeSpec& spec, int tokens, Logits kind, bool padded, const Product& p, bool gptq = false) {
  if (!mine()) return;
  sign_of_life();
  char name[200];
  const int64_t experts = spec.experts, n = p.n, k = p.k, n_out = p.end == 2 ? n / 2 : n;
  const std::vector<float> logits = random_logits(kind, tokens, spec.experts);
  std::vector<int32_t> row;
  for (int t = 0; padded && t < tokens; ++t) row.push_back(t % 4 == 2 ? -1 : 0);
  Buffer<float> device_logits(tokens * experts);
  device_logits.set(logits);
  Buffer<int32_t> rows(std::max<int64_t>(row.size(), 1));
  if (padded) rows.set(row);
  const int64_t places = int64_t{tokens} * spec.top_k, capacity = tokens + 9;
  const int64_t x_rows = p.end == 0 ? places : tokens, x_stride = k + 8, y_stride = n_out + 8;
  Buffer<char> memory(moe_routes_bytes(capacity, spec));
  const MoeRoutes routes = moe_routes(memory, capacity, spec);
  Buffer<T> x(x_rows * x_stride), bias(experts * n), dense(p.group == 0 ? experts * n * k : 1);
  normal(x.data, x.count);
  normal(bias.data, bias.count, 0.5f);
  Buffer<float> bias_values(experts * n), x_values(x_rows * k), dense_values(p.group == 0 ? experts * n * k : 1);
  widen<<<64, 256>>>(bias.data, bias.count, bias_values.data);
  ExpertMatrix w;
  w.experts = experts, w.n = n, w.k = k;
  if (p.bias) w.bias = bias;
  std::unique_ptr<W4Random> packed;
  const float* values = dense_values;
  if (p.group == 0) {
    normal(dense.data, dense.count, 1.0f / std::sqrt(static_cast<float>(k)));
    widen<<<1024, 256>>>(dense.data, dense.count, dense_values.data);
    w.dense = dense;
  } else {
    packed = std::make_unique<W4Random>(experts * n, k, p.group, gptq, p.end == 2);
    w.w4 = packed->w;
    w.w4.n = n;
    values = packed->values;
  }
  {
    Buffer<T> tight(x_rows * k);
    pack_rows<T><<<static_cast<unsigned>(ceil_div(tight.count, 256)), 256>>>(x, x_stride, x_rows, k, tight);
    widen<<<1024, 256>>>(tight.data, tight.count, x_values.data);
    CU(cudaDeviceSynchronize());
  }
  CU(cudaDeviceSynchronize());
  moe_route(spec, device_logits, experts, tokens, padded ? rows.data : nullptr, routes, stream);
  finish("route");
  int32_t slots = 0;
  CU(cudaMemcpy(&slots, routes.begin + experts, 4, cudaMemcpyDeviceToHost));
  Buffer<double> sums(slots * n), reference(slots * n_out);
  reference_expert_sums<<<static_cast<unsigned>(ceil_div(slots * n, 256)), 256>>>(
      values, x_values, p.end == 0 ? nullptr : routes.token, routes.begin, p.bias ? bias_values.data : nullptr, slots, n, k,
      sums);
  reference_expert_end<<<static_cast<unsigned>(ceil_div(slots * n_out, 256)), 256>>>(
      sums, slots, n, p.end, static_cast<int>(p.activation), reference);
  CU(cudaDeviceSynchronize());
  Buffer<T> y(places * y_stride), tight(slots * n_out);
  Buffer<unsigned> touched(1);
  ExpertCall call;
  call.dtype = dtype_of<T>();
  call.tokens = tokens;
  call.x = x, call.x_stride = x_stride, call.y = y, call.y_stride = y_stride;
  call.gated = p.end == 2, call.activation = p.activation;
  Buffer<T> gathered(places * k);
  if (p.end != 0) call.gathered = gathered;
  for (int variant = -1; variant < kVariants; ++variant) {
    if (variant >= 0 && !moe_variant_fits(variant, call, p.end != 0)) continue;
    std::snprintf(name, sizeof name, "%s g%d n %ld k %ld end %d bias %d act %d experts %d top %d tokens %d kind %d padded %d v%d",
                  call.dtype == DType::f16 ? "f16" : "bf16", p.group, long(n), long(k), p.end, p.bias, int(p.activation),
                  spec.experts, spec.top_k, tokens, int(kind), padded, variant);
    y.poison();
    touched.zero();
    for (int again = 0; again < 2; ++again) moe_product_variant(variant, spec, call, w, routes, p.end != 0, stream);
    finish(name);
    pack_rows<T><<<static_cast<unsigned>(ceil_div(tight.count, 256)), 256>>>(y, y_stride, slots, n_out, tight);
    count_touched<T><<<static_cast<unsigned>(ceil_div(y.count, 256)), 256>>>(y, y_stride, slots, places, n_out, touched);
    // Weights of 4 bits are rounded with their scale, and a gate multiplies two sums' errors.
    const double rounding = (call.dtype == DType::f16 ? 6e-4 : 4e-3) * (p.group != 0 && p.end == 2 ? 1.5 : 1.0);
    compare(name, tight, reference, rounding, false);
    if (touched.host()[0] != 0) fail(std::string(name) + ": writes beyond its rows");
  }
}

template <class T>
void check_products() {
  const int before = failures();
  const Activation silu = Activation::silu;
  const MoeSpec eight = spec_of(8, 2), many = spec_of(64, 6), four = spec_of(4, 1);
  for (int group : {0, 128, 64, 32}) {
    for (int tokens : {1, 9, 33, 300}) {
      const Logits kind = tokens % 2 == 1 ? Logits::skewed : Logits::normal;
      check_product<T>(eight, tokens, kind, false, {288, 512, group, 2, false, silu});
      check_product<T>(eight, tokens, kind, false, {272, 384, group, 0, false, silu}, true);
    }
    check_product<T>(many, 40, Logits::normal, true, {96, 256, group, 2, true, Activation::gelu_tanh});
    check_product<T>(many, 40, Logits::skewed, true, {80, 256, group, 0, true, silu});
    check_product<T>(many, 700, Logits::skewed, false, {144, 128, group, 1, true, Activation::relu});
    check_product<T>(four, 520, Logits::one_expert, false, {160, 128, group, 2, false, Activation::gelu});
    check_product<T>(four, 520, Logits::one_expert, false, {400, 128, group, 0, false, silu});
    check_product<T>(many, 700, Logits::normal, false, {400, 128, group, 0, false, silu});
    check_product<T>(many, 500, Logits::skewed, true, {288, 128, group, 2, false, silu});
    check_product<T>(four, 129, Logits::equal, false, {16, 128, group, 0, true, silu});
  }
  for (int64_t k : {32, 96, 160, 2080}) {  // the end of a stage
    check_product<T>(eight, 70, Logits::normal, false, {176, k, 0, 2, true, silu});
    check_product<T>(eight, 3, Logits::normal, false, {48, k, 0, 0, false, silu});
  }
  for (int64_t k : {64, 192, 2112}) {
    check_product<T>(eight, 70, Logits::normal, false, {176, k, 64, 2, true, silu});
    check_product<T>(eight, 3, Logits::normal, false, {48, k, 32, 0, false, silu});
  }
  check_product<T>(spec_of(16, 4), 300, Logits::normal, false, {640, 2048, 0, 2, false, silu});
  check_product<T>(spec_of(16, 4), 300, Logits::normal, false, {640, 2048, 128, 2, false, silu});
  check_product<T>(spec_of(16, 4), 300, Logits::normal, false, {528, 768, 0, 0, false, silu});
  check_product<T>(spec_of(16, 4), 300, Logits::normal, false, {528, 768, 128, 0, false, silu});
  std::printf("%s products: %d failures\n", dtype_of<T>() == DType::f16 ? "f16" : "bf16", failures() - before);
}

template <class T>
void check_combine(const MoeSpec& spec, int tokens, int64_t n, bool residual, float scale, bool padded) {
  if (!mine()) return;
  sign_of_life();
  const std::vector<float> logits = random_logits(Logits::normal, tokens, spec.experts);
  std::vector<int32_t> row;
  for (int t = 0; padded && t < tokens; ++t) row.push_back(t % 3 == 2 ? -1 : 0);
  Buffer<float> device_logits(int64_t{tokens} * spec.experts);
  device_logits.set(logits);
  Buffer<int32_t> rows(std::max<int64_t>(row.size(), 1));
  if (padded) rows.set(row);
  Buffer<char> memory(moe_routes_bytes(tokens, spec));
  const MoeRoutes routes = moe_routes(memory, tokens, spec);
  const int64_t places = int64_t{tokens} * spec.top_k, stride = n + 16;
  Buffer<T> out(places * stride), y(tokens * stride), before(tokens * stride), tight(tokens * n);
  normal(before.data, before.count);
  CU(cudaDeviceSynchronize());
  moe_route(spec, device_logits, spec.experts, tokens, padded ? rows.data : nullptr, routes, stream);
  finish("route");
  int32_t slots = 0;
  CU(cudaMemcpy(&slots, routes.begin + spec.experts, 4, cudaMemcpyDeviceToHost));
  normal(out.data, slots * stride);  // beyond: poison
  CU(cudaMemcpy(y.data, before.data, static_cast<size_t>(y.count) * 2, cudaMemcpyDeviceToDevice));
  MoeCombineCall call;
  call.dtype = dtype_of<T>();
  call.tokens = tokens, call.n = n, call.out = out, call.out_stride = stride, call.scale = scale;
  call.y = y, call.y_stride = stride;
  if (residual) call.residual = y, call.residual_stride = stride;
  CU(cudaDeviceSynchronize());
  moe_combine(spec, call, routes, stream);
  finish("combine");
  const Routed want = reference_routes(spec, logits, tokens, row);
  const auto results = out.host(), added = before.host();
  std::vector<double> sums(static_cast<size_t>(tokens * n));
  for (int t = 0; t < tokens; ++t) {
    for (int64_t c = 0; c < n; ++c) {
      double sum = 0;
      for (int rank = 0; rank < spec.top_k; ++rank) {
        const size_t i = size_t(t) * spec.top_k + rank;
        if (want.slot[i] >= 0) sum += want.weight[i] * static_cast<float>(results[want.slot[i] * stride + c]);
      }
      sums[t * n + c] = double(scale) * sum + (residual ? static_cast<float>(added[t * stride + c]) : 0.0f);
    }
  }
  Buffer<double> reference(tokens * n);
  reference.set(sums);
  pack_rows<T><<<static_cast<unsigned>(ceil_div(tight.count, 256)), 256>>>(y, stride, tokens, n, tight);
  char name[120];
  std::snprintf(name, sizeof name, "combine %s tokens %d n %ld top %d residual %d scale %.2f padded %d",
                call.dtype == DType::f16 ? "f16" : "bf16", tokens, long(n), spec.top_k, residual, scale, padded);
  compare(name, tight, reference, call.dtype == DType::f16 ? 6e-4 : 4e-3, false);
}

template <class T>
void check_combines() {
  const int before = failures();
  check_combine<T>(spec_of(8, 2), 1, 4096, true, 1.0f, false);
  check_combine<T>(spec_of(8, 2), 70, 64, true, 0.22f, true);
  check_combine<T>(spec_of(128, 8), 33, 2048, false, 1.0f, true);
  check_combine<T>(spec_of(128, 10), 300, 520, true, 1.0f, false);
  check_combine<T>(spec_of(64, 32), 5, 8, false, 2.0f, false);
  std::printf("sums: %d failures\n", failures() - before);
}

// ------------------------------------------------------------------------------------------------------------- timing
__global__ void fill_words(uint32_t* p, int64_t n, uint32_t value) {
  for (int64_t i = blockIdx.x * 256ll + threadIdx.x; i < n; i += gridDim.x * 256ll) p[i] = value;
}

struct Model {
  const char* name;
  int64_t hidden, inner;
  MoeSpec spec;
};

using T = __nv_bfloat16;

void time_model(const Model& m, int group, bool prompts, bool variants) {
  const MoeSpec& spec = m.spec;
  const int64_t experts = spec.experts, hidden = m.hidden, inner = m.inner, most = prompts ? 8192 : 256;
  const int64_t up_bytes = group == 0 ? 4 * inner * hidden : w4_data_bytes(2 * inner, hidden);
  const int64_t down_bytes = group == 0 ? 2 * inner * hidden : w4_data_bytes(hidden, inner);
  const int64_t up_params = group == 0 ? 0 : w4_param_bytes(2 * inner, hidden, group);
  const int64_t down_params = group == 0 ? 0 : w4_param_bytes(hidden, inner, group);
  Buffer<char> up_data(experts * up_bytes), down_data(experts * down_bytes);
  Buffer<char> up_scales(experts * up_params), down_scales(experts * down_params);
  ExpertMatrix up, down;
  up.experts = down.experts = experts;
  up.n = 2 * inner, up.k = hidden, down.n = hidden, down.k = inner;
  if (group == 0) {
    normal(reinterpret_cast<T*>(up_data.data), up_data.count / 2, 0.02f);
    normal(reinterpret_cast<T*>(down_data.data), down_data.count / 2, 0.02f);
    up.dense = up_data, down.dense = down_data;
  } else {
    bits(up_data, up_data.count);
    bits(down_data, down_data.count);
    fill_words<<<1024, 256>>>(reinterpret_cast<uint32_t*>(up_scales.data), up_scales.count / 4, 0x00081800u);
    fill_words<<<1024, 256>>>(reinterpret_cast<uint32_t*>(down_scales.data), down_scales.count / 4, 0x00081800u);
    up.w4 = {up_data.data, reinterpret_cast<uint32_t*>(up_scales.data), up.n, up.k, group};
    down.w4 = {down_data.data, reinterpret_cast<uint32_t*>(down_scales.data), down.n, down.k, group};
  }
  constexpr int kSets = 4;
  Buffer<T> x(most * hidden), mid(most * spec.top_k * inner), out(most * spec.top_k * hidden);
  Buffer<float> logits(kSets * most * experts);
  normal(x.data, x.count);
  normal(mid.data, mid.count);
  normal(logits.data, logits.count);
  const int64_t route_bytes = moe_routes_bytes(most, spec);
  Buffer<char> memory(kSets * route_bytes);
  CU(cudaDeviceSynchronize());
  for (int tokens : {1, 4, 16, 64, 256, 2048, 8192}) {
    if (tokens > most) break;
    sign_of_life();
    std::vector<MoeRoutes> routes;
    double active = 0;
    for (int i = 0; i < kSets; ++i) {
      routes.push_back(moe_routes(memory.data + i * route_bytes, most, spec));
      moe_route(spec, logits.data + i * most * experts, experts, tokens, nullptr, routes[i], stream);
      finish("route");
      const auto begin = fetch(routes[i].begin, static_cast<size_t>(experts) + 1);
      for (int e = 0; e < experts; ++e) active += begin[e + 1] > begin[e] ? 1.0 / kSets : 0.0;
    }
    ExpertCall expand, contract;
    expand.dtype = contract.dtype = DType::bf16;
    expand.tokens = contract.tokens = tokens;
    expand.x = x, expand.x_stride = hidden, expand.y = mid, expand.y_stride = inner, expand.gated = true, expand.gathered = out;
    contract.x = mid, contract.x_stride = inner, contract.y = out, contract.y_stride = hidden;
    MoeCombineCall combine;
    combine.dtype = DType::bf16, combine.tokens = tokens, combine.n = hidden;
    combine.out = out, combine.out_stride = hidden, combine.y = x, combine.y_stride = hidden;
    const int calls = tokens <= 256 ? 8 : 4;
    const double slots = double(tokens) * spec.top_k;
    std::printf("%s %s %d tokens, %.0f experts at work\n", m.name, group == 0 ? "bf16" : "W4", tokens, active);
    for (bool expands : {true, false}) {
      const ExpertMatrix& w = expands ? up : down;
      const double bytes = active * (expands ? up_bytes + up_params : down_bytes + down_params);
      const double flops = 2 * slots * w.n * w.k;
      const double floor = std::max(bytes / 3.12e6, flops / 790e6);
      for (int v = variants ? 0 : -1; v < (variants ? kVariants : 0); ++v) {
        if (v >= 0 && !moe_variant_fits(v, expands ? expand : contract, expands)) continue;
        const double average = slots / experts;
        if (v >= 0 && v < 4 && average > 12) continue;
        if (v >= 4 && v < 8 && (average > 4.0 * kHeights[v - 3] || average < kHeights[v - 3] / 16.0)) continue;
        if (v == 8 && average < 12) continue;
        if (v == 9 && (average > 80 || average < 0.25)) continue;
        const double us = time_us(stream, calls, [&](int i) {
          moe_product_variant(v, spec, expands ? expand : contract, w, routes[i % kSets], expands, stream);
        });
        std::printf("  %-8s v%-2d %9.1f us  %5.0f GB/s  %5.0f TFLOP/s  roofline %9.1f us (%.0f %%)\n",
                    expands ? "expand" : "contract", v, us, bytes / us * 1e-3, flops / us * 1e-6, floor,
                    100 * floor / us);
        sign_of_life();
      }
    }
    const double route_us = time_us(stream, 16, [&](int i) {
      moe_route(spec, logits.data + i % kSets * most * experts, experts, tokens, nullptr, routes[i % kSets], stream);
    });
    const double combine_us = time_us(stream, 16, [&](int i) { moe_combine(spec, combine, routes[i % kSets], stream); });
    normal(x.data, x.count);
    CU(cudaDeviceSynchronize());
    const double layer_us = time_us(stream, calls, [&](int i) {
      const MoeRoutes& r = routes[i % kSets];
      moe_route(spec, logits.data + i % kSets * most * experts, experts, tokens, nullptr, r, stream);
      moe_product_variant(-1, spec, expand, up, r, true, stream);
      moe_product_variant(-1, spec, contract, down, r, false, stream);
      moe_combine(spec, combine, r, stream);
    });
    const double layer_floor = std::max(active * (up_bytes + up_params + down_bytes + down_params) / 3.12e6,
                                        2 * slots * 3 * inner * hidden / 790e6);
    std::printf("  route %.1f us, combine %.1f us, the layer %.1f us, roofline %.1f us (%.0f %%)\n", route_us, combine_us,
                layer_us, layer_floor, 100 * layer_floor / layer_us);
  }
}

void times(bool variants) {
  print_bandwidth(stream);
  const Model mixtral = {"Mixtral-8x7B", 4096, 14336, spec_of(8, 2)};
  const Model qwen = {"Qwen3-30B-A3B", 2048, 768, spec_of(128, 8)};
  for (int group : {128, 0}) {
    time_model(qwen, group, true, variants);
    time_model(mixtral, group, true, variants);
  }
}

}  // namespace

int main(int argc, char** argv) {
  return program(argc, argv, "check", &stream, [](const std::string& mode) {
    start_watchdog();
    if (mode == "check") {
      check_routes();
      check_combines<__nv_bfloat16>();
      check_combines<__half>();
      check_products<__nv_bfloat16>();
      check_products<__half>();
      std::printf("all checks done, %d failures\n", failures());
    }
    if (mode == "time" || mode == "variants") times(mode == "variants");
  });
}
