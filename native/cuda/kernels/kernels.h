// The kernels of the CUDA backend: plain functions over device pointers and a stream.
//
// Rules for all of them
// - Nothing allocates, synchronizes or reads device memory on the host: every call can be captured in a graph.
// - Pointers are device pointers unless a comment says "host". Activations are T = f16 or bf16 (`dtype`); accumulators
//   are float32. Strides are in elements. Vectors and matrix rows start at 16-byte boundaries: base pointers 16-byte
//   aligned, strides of activations multiples of 8.
// - Arguments out of a function's limits throw Error("invalid" | "unsupported"); a launch that CUDA refuses throws
//   Error("device").
// - Results are deterministic: sums have a fixed order, whatever order blocks finish in.
// - Kernels are launched with programmatic dependent launch where the device has it (sm_90 on) and
//   set_dependent_launch(true) (the default): they may start before the kernel in front has ended and wait for it
//   before they touch anything but weights. So weights must not be written by the kernel right in front: synchronize
//   after loading them.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "deploykit/engine.h"
#include "deploykit/model.h"
#include "deploykit/weights.h"

namespace deploykit::cuda {

void set_dependent_launch(bool on);
// Off: the kernels of older generations are used where there are others for sm_90a (to check and to compare them).
void set_wgmma(bool on);
// Whether they are on and the device has what they need (wgmma, tensor maps).
bool has_wgmma();
// Multiprocessors of the current device (cached).
int32_t multiprocessors();

// ---------------------------------------------------------------------------------------------------- linear layers
// y = epilogue(norm(x) W^T + bias). W is [n, k]: n outputs, k inputs.

// Rows of W where gate and up are one matrix of 2 * intermediate rows: 8 rows of gate, then the same 8 of up, and so
// on: row(gate i) = (i / 8) * 16 + i % 8, row(up i) = row(gate i) + 8. Epilogue::gated needs this order.
enum class RowMap : int32_t { plain = 0, gate = 1, up = 2 };

enum class Epilogue : int32_t {
  none = 0,      // y[m, i] = sum + bias[i]
  residual = 1,  // y[m, i] = residual[m, i] + residual_scale * (sum + bias[i]); residual may be y
  gated = 2,     // y[m, i] = act(row gate i) * row up i, n / 2 outputs
};

struct LinearCall {
  DType dtype = DType::bf16;
  int32_t m = 0;            // tokens
  const void* x = nullptr;  // T [m, k]
  int64_t x_stride = 0;
  void* y = nullptr;  // [m, n] (gated: [m, n / 2])
  int64_t y_stride = 0;
  bool y_f32 = false;  // y is float32 (Epilogue::none alone), else T
  Epilogue epilogue = Epilogue::none;
  Activation activation = Activation::silu;  // of gated
  const void* bias = nullptr;                // T [n], in W's row order; nullptr = none
  const void* residual = nullptr;            // T [m, n]
  int64_t residual_stride = 0;
  float residual_scale = 1.0f;
  // RMS norm of x on the way in (gemv functions alone): norm(x) = x / rms(x) * (norm_weight + norm_offset).
  // The product x * weight is rounded to T before the sum, x / rms after it: keep |x * weight| below 65504 with f16.
  const void* norm_weight = nullptr;  // T [k]; nullptr = no norm
  float norm_eps = 1e-5f;
  float norm_offset = 0.0f;
  // Partial sums of w4_mma (w4_mma_workspace_bytes): the first 64 KiB zero at the start; every call leaves them zero.
  // Calls that may run at the same time need workspaces of their own.
  void* workspace = nullptr;
};

// 16-bit weights, m <= 8: y as above. w T [n, k] row-major, k % 32 == 0, n % 16 == 0 (plain y_f32 heads too).
// Ahead of or level with cuBLASLt for every m up to 8 on an H100. A norm on the way in is nearly free for m <= 2;
// beyond, normalize in front (the tokens are staged in each block only where there is a norm).
constexpr int32_t kGemv16MaxM = 8;
void gemv16(const LinearCall& call, const void* w, int64_t n, int64_t k, cudaStream_t stream);

// 16-bit weights, any m, on devices with wgmma: y as above with every epilogue, no norm; needs no workspace. w as for
// gemv16, k % 64 == 0. Ahead of cuBLASLt for 9 to 64 tokens on an H100, about level from 2,048 on.
constexpr int32_t kGemm16BestM = 64;
void gemm16(const LinearCall& call, const void* w, int64_t n, int64_t k, cudaStream_t stream);

// 4-bit weights with a scale and a zero point for every `group` inputs: w = (q - z) * scale.
// One packed layout for every tier:
//   data   [n / 16][k / 64][32 lanes] 16 bytes. Lane (r = lane / 4, t = lane % 4) holds of rows r and r + 8 of the tile,
//          in word s (s < 4), inputs 64c + 16s + {2t, 2t + 1, 2t + 8, 2t + 9}: row r, 2t + {0, 1} in nibbles 0, 4; row
//          r + 8 in 1, 5; row r, 2t + {8, 9} in 2, 6; row r + 8 in 3, 7. Two nibbles 16 bits apart are one register of
//          the first operand of mma.m16n8k16 and of wgmma.
//   params [n / 16][k / group][8][2] uint32: f16 bits of the scale of row r (and r + 8) below, its zero point << 16.
// Limits: group 32, 64 or 128, n % 16 == 0, k % 64 == 0, k % group == 0.
struct W4Weight {
  const void* data = nullptr;
  const uint32_t* params = nullptr;
  int64_t n = 0, k = 0;
  int32_t group = 128;
};
int64_t w4_data_bytes(int64_t n, int64_t k);
int64_t w4_param_bytes(int64_t n, int64_t k, int32_t group);

// A checkpoint's tensor on the device, as WeightFormat::awq or ::gptq says; rows = n of this source.
struct W4Source {
  WeightFormat format = WeightFormat::awq;
  const int32_t* qweight = nullptr;
  const int32_t* qzeros = nullptr;
  const void* scales = nullptr;  // f16
  int64_t rows = 0;
  int32_t zero_offset = 0;
};
// Put the source's rows at dst rows [row_offset, row_offset + rows) (plain; row_offset % 16 == 0, rows % 8 == 0), or at
// the gate or up rows (row_offset 0). Parts of one dst may be given in any order, each by one call.
void w4_repack(const W4Source& source, const W4Weight& dst, int64_t row_offset, RowMap map, cudaStream_t stream);

// y as above for any m >= 1 by the fastest of w4_gemv, w4_mma and, on sm_90, a wgmma kernel without limits. A norm on the
// way in: m <= 8. call.workspace as for w4_mma (the wgmma kernel uses none).
int64_t w4_matmul_workspace_bytes();
void w4_matmul(const LinearCall& call, const W4Weight& w, cudaStream_t stream);
// m <= 8, x may be normalized on the way in (worth it for m <= 2).
constexpr int32_t kW4GemvMaxM = 8;
void w4_gemv(const LinearCall& call, const W4Weight& w, cudaStream_t stream);
// Up to kW4ChainMost products one behind the other in one kernel, which fetches the next ones' weights while it ends the
// last (sm_90): each takes what the one in front of it gives, and may add to what earlier ones gave for the same rows. All of
// one m, dtype and group; w4_chain_takes() each weight; no y_f32. `arrivals`: 4 bytes, zero at the start, for this function
// alone. Its blocks wait for one another, a block a multiprocessor; they start together or not at all (a cooperative launch).
struct W4ChainLink {
  LinearCall call;
  const W4Weight* weight = nullptr;
};
constexpr int32_t kW4ChainMost = 4, kW4ChainMaxM = 4;
bool w4_chain_takes(const W4Weight& w, int32_t m);
void w4_chain(const W4ChainLink* links, int32_t count, uint32_t* arrivals, cudaStream_t stream);
// m <= 64, needs call.workspace; no norm. For devices without wgmma.
constexpr int32_t kW4MmaMaxM = 64;
int64_t w4_mma_workspace_bytes();
void w4_mma(const LinearCall& call, const W4Weight& w, cudaStream_t stream);
// Rows [row0, row0 + rows) as T [rows, k] row-major, for a library GEMM. row0 % 16 == 0, rows % 16 == 0.
void w4_dequantize(DType dtype, const W4Weight& w, int64_t row0, int64_t rows, void* out, cudaStream_t stream);

// 8-bit weights with a float32 scale a row: w[i, j] = q[i, j] * scale[i], q an integer in -127 .. 127.
// One packed layout for every tier:
//   data   [n / 16][k / 32][32 lanes] 16 bytes. Lane (r = lane / 4, t = lane % 4) holds of rows r and r + 8 of the tile,
//          in word 2s + h (s, h < 2), inputs 32c + 16s + 8h + {2t, 2t + 1}: row r in bytes 0, 2, row r + 8 in bytes 1, 3
//          (two's complement). Bytes 0 and 2, or 1 and 3, are one register of the first operand of mma.m16n8k16 and of
//          wgmma.
//   scales [n]
// Limits: n % 16 == 0, k % 64 == 0.
struct W8Weight {
  int64_t n = 0, k = 0;
  void* data = nullptr;
  float* scales = nullptr;
};
int64_t w8_data_bytes(int64_t n, int64_t k);
// Rows [row0, row0 + rows) of dst from `src` [rows, k] row-major (f16, bf16 or f32): scale = max |w| / 127 (1 where the
// row is zero), q = round-half-to-even(w / scale). row0 % 16 == 0, rows % 16 == 0. Parts may be given in any order.
void w8_quantize(DType from, const void* src, int64_t row0, int64_t rows, const W8Weight& dst, cudaStream_t stream);
// y = scale * sum(q x) (+ bias) for any m >= 1: plain or residual, T or float32; no norm, no gate. The integers are
// exact in T and the sums float32. Needs no workspace.
void w8_matmul(const LinearCall& call, const W8Weight& w, cudaStream_t stream);

// ------------------------------------------------------------------------------------------------- mixtures of experts
// A routed MLP is five calls: the router's product (an ordinary linear layer, y_f32), moe_route, moe_expand,
// moe_contract, moe_combine. Counts of tokens an expert stay on the device, so all of it can be captured; grids depend
// on (tokens, spec, shapes) alone.
//
// A slot is one (token, rank) pair; slots are sorted by expert, then by token. Limits: experts <= 512, top_k <= 32.
struct MoeRoutes {  // pointers into one piece of device memory: moe_routes()
  int32_t* expert = nullptr;  // [tokens, top_k] best first
  float* weight = nullptr;    // [tokens, top_k] what combine multiplies with
  int32_t* slot = nullptr;    // [tokens, top_k] where (token, rank) lies among the slots; -1 = the token isn't routed
  int32_t* token = nullptr;   // [slots] the token of each slot
  int32_t* begin = nullptr;   // [experts + 1] first slot of each expert, and the number of slots
  uint32_t* masks = nullptr;  // the rest is for the kernels alone: who chose whom, by 32 tokens
  int32_t* offsets = nullptr;
  int32_t* tile_counts = nullptr;
  int4* tiles = nullptr;
  int64_t capacity = 0;  // tokens
};
int64_t moe_routes_bytes(int64_t tokens, const MoeSpec& spec);  // for batches of at most so many tokens
// The same memory (16-byte aligned) may serve every layer with the same experts and top_k, one after another.
MoeRoutes moe_routes(void* memory, int64_t tokens, const MoeSpec& spec);
// logits float32 [tokens, experts], `stride` elements apart. row (or nullptr): tokens with row[t] < 0 are padding; they
// take no slot, and moe_combine gives them a sum of zero. row isn't written by the kernel right in front.
// Equal logits: the lower expert first. Weights as MoeSpec says, in float32.
void moe_route(const MoeSpec& spec, const float* logits, int64_t stride, int32_t tokens, const int32_t* row,
               const MoeRoutes& routes, cudaStream_t stream);

// One matrix of every expert. n rows an expert; with gate and up, 2 * intermediate of them in the order of RowMap.
// dense: k % 32 == 0, n % 16 == 0. W4: as W4Weight.
struct ExpertMatrix {
  int64_t experts = 0, n = 0, k = 0;
  const void* dense = nullptr;  // T [experts][n][k]; nullptr = w4
  W4Weight w4;                  // of expert 0; expert e's data and params lie e * stride bytes behind
  int64_t w4_data_stride = 0, w4_param_stride = 0;  // multiples of 16; 0 = w4_data_bytes() and w4_param_bytes()
  const void* bias = nullptr;                       // T [experts][n] in the order of the rows, or nullptr
};
struct ExpertCall {
  DType dtype = DType::bf16;
  int32_t tokens = 0;  // what moe_route was called with
  const void* x = nullptr;
  int64_t x_stride = 0;
  void* y = nullptr;
  int64_t y_stride = 0;
  bool gated = false;                        // of moe_expand
  Activation activation = Activation::silu;  // of moe_expand, gated or not
  // T [tokens * top_k, k], 16-byte aligned, of moe_expand: room for the rows of x in the order of the slots, which makes
  // prompts faster on sm_90 (moe_contract's y may be it). nullptr = none.
  void* gathered = nullptr;
};
// y[slot] = act(gate) * up, or act(W x + bias), of x[token of the slot]. x T [tokens, k], y T [tokens * top_k, n (gated:
// n / 2)]. x may be written by the kernels in front, routes by the kernel right in front.
void moe_expand(const MoeSpec& spec, const ExpertCall& call, const ExpertMatrix& w, const MoeRoutes& routes,
                cudaStream_t stream);
// y[slot] = W x[slot] + bias. x T [tokens * top_k, k], y T [tokens * top_k, n]. The kernel right in front doesn't write
// routes (it is moe_expand, or another that comes after moe_route).
void moe_contract(const MoeSpec& spec, const ExpertCall& call, const ExpertMatrix& w, const MoeRoutes& routes,
                  cudaStream_t stream);
// y[t] = residual[t] + scale * (sum over ranks of weight * out[slot]), summed in float32 in the order of the ranks and
// rounded once. residual may be y, or nullptr (then y[t] = scale * sum). out T [tokens * top_k, n], n % 8 == 0.
struct MoeCombineCall {
  DType dtype = DType::bf16;
  int32_t tokens = 0;
  int64_t n = 0;
  const void* out = nullptr;
  int64_t out_stride = 0;
  const void* residual = nullptr;
  int64_t residual_stride = 0;
  float scale = 1.0f;
  void* y = nullptr;
  int64_t y_stride = 0;
};
void moe_combine(const MoeSpec& spec, const MoeCombineCall& call, const MoeRoutes& routes, cudaStream_t stream);

// ------------------------------------------------------------------------------------------------------- elementwise
// out[t] = table[tokens[t]] * multiplier; rows of a token outside [0, vocab) become zeros.
void embed(DType dtype, const void* table, int64_t vocab, int64_t hidden, float multiplier, const int32_t* tokens,
           int64_t count, void* out, int64_t out_stride, cudaStream_t stream);

// y = norm(x (+ add_scale * add)) * (weight + offset) (+ bias), rows of n, a block each. With `add`, the sum is rounded
// to T and written to `sum` (which may be x) before it is normalized. n % 8 == 0, n <= 32768. gather (or nullptr) picks
// x's row for each of y's: x row gather[i] (then add must be nullptr).
struct NormCall {
  DType dtype = DType::bf16;
  Norm norm;
  const void* weight = nullptr;  // T [n]
  const void* bias = nullptr;    // T [n] or nullptr
  int64_t rows = 0, n = 0;
  const void* x = nullptr;
  int64_t x_stride = 0;
  const void* add = nullptr;
  int64_t add_stride = 0;
  float add_scale = 1.0f;
  void* sum = nullptr;
  int64_t sum_stride = 0;
  void* y = nullptr;
  int64_t y_stride = 0;
  const int32_t* gather = nullptr;
  // The next kernel reads nothing but weights before its own wait (gemm16, gemv16, w4_...): it may start before the
  // kernel in front of this one has ended.
  bool frees_next = false;
};
void norm(const NormCall& call, cudaStream_t stream);

// y[m, i] = act(gate) * up for x [m, 2 * inner] in the order of RowMap (8 and 8); y [m, inner]. inner % 8 == 0.
void gate_activate(DType dtype, Activation activation, const void* x, int64_t x_stride, int64_t m, int64_t inner,
                   void* y, int64_t y_stride, cudaStream_t stream);
// x = act(x) in place, [m, n]. n % 8 == 0.
void activate(DType dtype, Activation activation, void* x, int64_t x_stride, int64_t m, int64_t n, cudaStream_t stream);
// h += scale * x, [m, n], rounded to T. n % 8 == 0.
void add_scaled(DType dtype, void* h, int64_t h_stride, const void* x, int64_t x_stride, float scale, int64_t m,
                int64_t n, cudaStream_t stream);
// float32 logits in place: x = x * multiplier, then cap * tanh(x / cap) where cap > 0.
void scale_softcap(float* x, int64_t count, float multiplier, float cap, cudaStream_t stream);

// -------------------------------------------------------------------------------------------------- KV memory layout
// A block is one byte range over all layers: layer, then KV head, then
//   K [block_len][D], V [block_len][D], K params [block_len], V params [block_len] (int8, k8v4 and int4 alone).
// f16 and bf16: plain elements. int8: a byte u = round((x - zero) / scale) in 0 .. 255. int4: u in 0 .. 15, element 2i
// in the low nibble of byte i. Params: f16 scale below, f16 zero << 16: x ~ u * scale + zero, made from the token's own
// minimum and maximum over the head. int4 stores M k in place of a key k, and queries that meet it become M q: M is
// orthonormal, so that M q . M k = q . k, and a channel that is large in every key doesn't set the range of all others.
// With b the largest power of two that divides D and m = D / b: M = A x H, H the Hadamard matrix of b consecutive
// elements over sqrt(b), A[i][j] = (i == j) - 2 / m over the m runs of them (1 where m = 1). M M = 1. k8v4: K as int8,
// unchanged, V as int4. fp8: e4m3, nearest, at most 448, no params.
// block_len % 16 == 0; head_dim 64, 80, 96, 128 or 256.
struct KvView {
  void* base = nullptr;      // block 0
  int64_t block_bytes = 0;   // a multiple of 16
  int64_t layer_offset = 0;  // of this layer in a block: a multiple of 16
  int32_t block_len = 0;
  int32_t kv_heads = 0;
  int32_t head_dim = 0;
  KvType type = KvType::bf16;            // bf16 and f16 must equal the activations' dtype
  const int32_t* block_table = nullptr;  // [max_rows, max_blocks] by row; entries beyond a row's length aren't read
  int64_t max_blocks = 0;
};
// Bytes of one KV head of one layer in one block; a layer takes kv_heads of them.
int64_t kv_head_bytes(KvType type, int32_t block_len, int32_t head_dim);

// --------------------------------------------------------------------------------------------- rotation and KV store
struct RopeCall {
  DType dtype = DType::bf16;
  int64_t tokens = 0;
  // q is written rotated (and for int4 through M) in place; k is rotated, k and v are stored into the KV memory.
  void* q = nullptr;  // T [tokens, heads * D]
  int64_t q_stride = 0;
  const void* k = nullptr;  // T [tokens, kv_heads * D]
  const void* v = nullptr;
  int64_t kv_stride = 0;
  bool keep_k = false;  // k is written as q in place, too (FreshKv)
  int32_t heads = 0;
  const int32_t* row = nullptr;       // [tokens] row of each token; -1 = padding: nothing is written for it
  const int32_t* index = nullptr;     // [tokens] its place in the row's KV memory
  const int32_t* position = nullptr;  // [tokens] its position for the rotation (often the same array)
  const float* inv_freq = nullptr;    // [half]; angle = float(position) * inv_freq[i]
  int32_t half = 0;                   // 0 = no rotation; 2 * half <= D
  float attention_factor = 1.0f;
  bool interleaved = false;
  int32_t logn_trained_len = 0;
  // Per-head RMS norm before the rotation (QkNorm::head); nullptr = none. T [D].
  const void* q_norm = nullptr;
  const void* k_norm = nullptr;
  float norm_eps = 1e-5f;
  float norm_offset = 0.0f;
};
// The kernel right in front on the stream may write q, k and v, and nothing else that is read here: row, index,
// position and inv_freq are read before it has ended.
void rope_store(const RopeCall& call, const KvView& kv, cudaStream_t stream);

// ---------------------------------------------------------------------------------------------------------- attention
struct AttentionCall {
  DType dtype = DType::bf16;
  int32_t heads = 0;
  float scale = 0.0f;
  int32_t window = 0;            // a query sees itself and window - 1 tokens before it; 0 = all
  float softcap = 0.0f;          // 0 = off
  const float* sinks = nullptr;  // [heads] or nullptr
  const void* q = nullptr;       // T [tokens, heads * D], rotated
  int64_t q_stride = 0;
  void* out = nullptr;  // T [tokens, heads * D]
  int64_t out_stride = 0;
  int64_t tokens = 0;  // rows of q (attention_prefill alone): nothing beyond is read
};

// One query a row, for n batch entries; the row's KV memory holds tokens 0 .. index[i], the query's own included.
// row[i] = -1: out[i] becomes zeros. Grid and splits depend on (n, splits) alone, so a captured graph serves any
// lengths: entry i's tokens are cut into at most `splits` parts of equal length (multiples of 64), read from device
// memory. splits 1 .. 64; attention_decode_splits() is the tuned choice. With one split no workspace is used. The
// workspace's first 64 KiB must be zero at the start; every call leaves them zero. n * kv_heads <= 16384.
int32_t attention_decode_splits(int32_t n, int32_t heads, int32_t kv_heads, int64_t max_len);
int64_t attention_decode_workspace_bytes(int32_t n, int32_t heads, int32_t kv_heads, int32_t head_dim, int32_t splits);
void attention_decode(const AttentionCall& call, const KvView& kv, int32_t n, const int32_t* row, const int32_t* index,
                      int32_t splits, void* workspace, cudaStream_t stream);

// The same, cut by the rows' real lengths: attention_plan() once a step for all layers of these head counts (`plan`,
// attention_plan_bytes() of device memory, 16-byte aligned), then each layer's call with it. Long rows get more parts,
// short ones stay whole, the longest parts begin first. The plan is read before the kernel right in front has ended:
// at least one kernel stands between the two.
int32_t attention_plan_units(int32_t n, int32_t heads, int32_t kv_heads);
int64_t attention_plan_bytes(int32_t n, int32_t heads, int32_t kv_heads);
void attention_plan(int32_t n, int32_t heads, int32_t kv_heads, const int32_t* row, const int32_t* index, int32_t* plan,
                    cudaStream_t stream);
int64_t attention_planned_workspace_bytes(int32_t n, int32_t heads, int32_t kv_heads, int32_t head_dim);
void attention_decode_planned(const AttentionCall& call, const KvView& kv, int32_t n, const int32_t* row,
                              const int32_t* index, const int32_t* plan, void* workspace, cudaStream_t stream);

// rope_store() and attention_decode() (or with `plan`, attention_decode_planned(), whose workspace it needs) in one
// kernel, for entries of one token each: entry i is token i of `rope` (its row, index, position, k and v), its query
// call.q's row i, not rotated yet and left so; rope.q and rope.keep_k are unused. Each row comes up once. The kernel
// right in front may write q, k and v, and nothing else that is read here.
void rope_attention_decode(const RopeCall& rope, const AttentionCall& call, const KvView& kv, int32_t n, int32_t splits,
                           const int32_t* plan, void* workspace, cudaStream_t stream);

// K and V of this step's tokens as the batch holds them, rotated (RopeCall::keep_k), beside the queries: token t of the
// batch is row t of both. k = nullptr: none. v lies behind k (both in the product of Q, K and V).
struct FreshKv {
  const void* k = nullptr;  // T [tokens, kv_heads * D]
  const void* v = nullptr;
  int64_t stride = 0;
};
// Many queries a row, causal: sequence s has queries q[q_start[s] .. q_start[s + 1]), which are tokens
// index0[s], index0[s] + 1, ... of row row[s]; its KV memory holds them and all before. 16-bit KV alone (others: see
// kv_gather). q_start [sequences + 1], index0 and row [sequences] in device memory, not written by the kernel right in
// front; max_queries >= every count; call.tokens >= q_start[sequences]. With `fresh`, sequences whose index0 is 0 read
// K and V there and never touch the KV memory.
void attention_prefill(const AttentionCall& call, const KvView& kv, int32_t sequences, const int32_t* q_start,
                       const int32_t* index0, const int32_t* row, int32_t max_queries, cudaStream_t stream,
                       const FreshKv& fresh = {});

// Unpack tokens 0 .. length[s] - 1 of row[s] of quantized KV memory (one layer) into 16-bit KV memory of a layout of
// its own (`out`: same heads and D; out.block_table is indexed by s), to be attended with block table rows 0 ..
// sequences - 1. row and length aren't written by the kernel right in front.
void kv_gather(DType dtype, const KvView& kv, const KvView& out, int32_t sequences, const int32_t* row,
               const int32_t* length, int32_t max_length, cudaStream_t stream);

// Whole blocks: dst[i] = src[i] for pairs [count][2] (src, dst); no block may be both.
void copy_blocks(const KvView& kv, const int32_t* pairs, int64_t count, cudaStream_t stream);

// ------------------------------------------------------------------------------------------------------------ sampling
// docs/sampling.md. One struct a batch entry, in device memory.
struct SampleRow {
  double temperature = 0.0;
  double top_p = 1.0;
  double min_p = 0.0;
  float repetition = 1.0f;
  float frequency = 0.0f;
  float presence = 0.0f;
  int32_t top_k = 0;
  int32_t position = 0;  // output tokens produced before this one
  uint64_t seed = 0;
  // Parts [begin, end) of the arrays of SampleLists.
  int32_t bias_begin = 0, bias_end = 0;
  int32_t bias_values = 0;  // where the biases' values begin
  int32_t ban_begin = 0, ban_end = 0;
  // Row of SampleLists::counts and of the processed logits; -1 = logits are drawn from as they are.
  int32_t slot = -1;
  int32_t mask_slot = -1;  // row of SampleLists::masks, -1 = no grammar
  int32_t logprobs = -1;   // of the drawn token, and of so many best ones (kMaxTopLogprobs at most); -1 = none
  int32_t active = 1;      // 0: nothing is drawn (kSampleSkipped)
};
struct SampleLists {
  const int32_t* bias_id = nullptr;  // distinct ids of a row, inside the vocabulary
  const float* bias_value = nullptr;
  const int32_t* ban_id = nullptr;   // ids that become -inf: the caller resolves min_tokens and bad words
  const uint32_t* counts = nullptr;  // [slots, vocab]: bit 31 = in the prompt, below it: times produced
  const uint32_t* masks = nullptr;   // [slots, ceil(vocab / 32)]
};
enum SampleError : int32_t { kSampleNonfinite = -1, kSampleNoToken = -2, kSampleSkipped = -3 };
constexpr int32_t kMaxTopLogprobs = 20;
struct SampleLogprobs {
  double logprob;
  int32_t token, rank;  // rank 1 = the most likely; token -1 = none were asked for
  int32_t top_ids[kMaxTopLogprobs];
  double top[kMaxTopLogprobs];
};

// Step 6 on raw logits: token[i] = argmax, the lowest id on ties; kSampleNonfinite where a logit is NaN or infinite.
// logits float32 [n, vocab]. workspace: sample_workspace_bytes(n, vocab), no particular content.
void argmax(const float* logits, int64_t stride, int32_t n, int32_t vocab, int32_t* token, void* workspace,
            cudaStream_t stream);
int64_t sample_workspace_bytes(int32_t n, int32_t vocab);
// Steps 0 to 5. Logits of rows with a slot go through them into processed [slots, vocab]; error[i] = 0,
// kSampleNonfinite, kSampleNoToken or kSampleSkipped; 0 for the others, whose logits draw() looks at.
void process_logits(const float* logits, int64_t stride, int32_t n, int32_t vocab, const SampleRow* rows,
                    const SampleLists& lists, float* processed, int32_t* error, cudaStream_t stream);
// Steps 6 to 11, each row from its slot of `processed` or from its logits: token[i], or error[i] where it is negative
// (logits without a slot that aren't finite: kSampleNonfinite, in error[i] too). workspace: as argmax().
void draw(const float* logits, int64_t stride, const float* processed, int32_t n, int32_t vocab, const SampleRow* rows,
          int32_t* error, int32_t* token, void* workspace, cudaStream_t stream);
// After a draw: counts[slot][token] += 1 for rows with a slot.
void count_tokens(const SampleRow* rows, const int32_t* token, int32_t n, int32_t vocab, uint32_t* counts,
                  cudaStream_t stream);
// Natural log-softmax of raw logits at token[i] and at the best ones, for rows that want it; token < 0: none.
void token_logprobs(const float* logits, int64_t stride, int32_t n, int32_t vocab, const SampleRow* rows,
                    const int32_t* token, SampleLogprobs* out, cudaStream_t stream);

}  // namespace deploykit::cuda
